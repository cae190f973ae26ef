"""Django's PostgreSQL, not asked whether it is well when it has just answered; it prepares what runs often."""


class Prepared(str):
    """SQL that runs often: each connection prepares it at its first run, and PostgreSQL plans it no more."""

    __slots__ = ()
