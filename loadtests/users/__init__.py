"""The users: closed.py (each waits for its result before it goes on) and open.py (jobs arrive at a constant rate)."""
