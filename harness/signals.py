"""What a program that starts others does with signals."""

import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, even if they were ignored or blocked at the start.

    A script's shell starts what it runs in the background with SIGINT and SIGQUIT ignored, and some supervisors leave
    signals blocked. Children inherit both, so call this before the first one is started.
    """
    for number in (signal.SIGQUIT, signal.SIGCHLD):  # with SIGCHLD ignored, every child seems to end with status 0
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # As if by Ctrl-C: asyncio.run then cancels its task; an exception from here could end any callback instead.
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ignore_signals() -> None:
    """From now on nothing interrupts us: we are ending what we have started, which takes seconds."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def heed_nothing() -> None:
    """Ignore signals, as a child does that a script's shell starts in the background, and block them too: for tests."""
    for number in (*ENDING, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
