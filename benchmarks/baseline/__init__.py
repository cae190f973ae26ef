"""The deployment that most people copy, as a whole project: `startproject`, Celery's first steps with Django, gunicorn.

Nothing is tuned, and nothing is made worse: where guides differ, the cheaper way is taken (database connections stay
open for a minute, the status view asks the result backend once).
"""
