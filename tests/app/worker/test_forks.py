"""A pool process is forked from a worker whose other threads go on: what they hold is held in it for ever."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from harness.servers import Redis
from jobs.redis_client import client
from worker import lease


def in_a_fork(check: Callable[[], object]) -> bool:
    """Whether it is true in a process that is forked now; a fork that waits is ended."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        with suppress(Exception):
            os._exit(0 if check() else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def test_a_lock_of_the_redis_client_that_another_thread_holds_is_not_waited_for(empty_broker: Redis) -> None:
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with client(1).connection_pool._lock:
            held.set()
            forked.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_a_fork(lambda: client(1).ping())
    finally:
        forked.set()
        holder.join()


class Call:
    """A call of the ledger that goes on until it is told to end."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()
        self.goes_on = False
        self.thread = threading.Thread(
            target=lease._try, args=[lambda: lease._try(self.run)]
        )  # the renewal has calls of its own
        self.thread.start()
        self.begun.wait()

    def run(self) -> None:
        self.goes_on = True
        self.begun.set()
        self.end.wait(10)
        self.goes_on = False


def test_a_worker_forks_between_two_calls_of_its_ledger_thread() -> None:
    call = Call()
    threading.Timer(0.2, call.end.set).start()
    assert in_a_fork(lambda: not call.goes_on and lease._try(lambda: None))
    call.thread.join()
    assert lease._try(lambda: None), "the worker itself goes on"


def test_a_fork_does_not_wait_for_a_call_that_takes_long() -> None:
    call = Call()
    assert in_a_fork(lambda: call.goes_on and lease._try(lambda: None))
    call.end.set()
    call.thread.join()
    assert lease._try(lambda: None)
