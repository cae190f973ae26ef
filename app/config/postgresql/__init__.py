"""Django's PostgreSQL, which is not asked whether it is well when it has just answered."""
