"""Other task queues for Django that promise more than Celery does, in the baseline's place: each as its own page
advises, behind the baseline's views. What they need is in requirements/peers.txt.
"""
