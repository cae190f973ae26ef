"""The ends of all jobs of a user, told on one WebSocket to all clients of a process: --one-socket."""

from collections import OrderedDict

import gevent
from gevent.event import AsyncResult, Event

from loadtests.api import FINISHED, PATIENCE_S, Api, Json, NotAccepted
from loadtests.clock import now

Told = tuple[Json, float]
"""A job that has ended, and when we were told."""


class Ends:
    """Listens, and wakes the client of each job that ends. A job may end before its submit is answered, so the ends
    that no client waits for, which may be another process's, are kept for `keep_s`.
    """

    def __init__(self, api: Api, keep_s: float) -> None:
        self._api, self._keep_s = api, keep_s
        self._waiting: dict[str, AsyncResult[Told]] = {}
        self._early: OrderedDict[str, Told] = OrderedDict()
        self._begun = Event()
        self._refusal: NotAccepted | None = None
        self._listener: gevent.Greenlet[[], None] | None = None

    def listen(self) -> None:
        """Begin, if that has not been done; what ends after this is not missed."""
        self._listener = self._listener or gevent.spawn(self._listen)
        self._begun.wait(PATIENCE_S)

    def _listen(self) -> None:
        try:
            for message, at in self._api.follow("/ws/jobs"):
                self._begun.set()
                job = message.get("job")
                if job and job["state"] in FINISHED:
                    self._hear(job, at)
        except NotAccepted as error:
            self._refusal = error
            self._begun.set()
            for one in self._waiting.values():
                one.set_exception(error)

    def _hear(self, job: Json, at: float) -> None:
        if job["id"] in self._waiting:
            self._waiting[job["id"]].set((job, at))
        else:
            self._early.setdefault(job["id"], (job, at))
        while self._early and next(iter(self._early.values()))[1] < now() - self._keep_s:
            self._early.popitem(last=False)

    def of(self, job_id: str) -> Told:
        """The end of a job, as soon as we are told.

        Raises:
            NotAccepted: the server has closed the socket for good.
        """
        if job_id in self._early:
            return self._early[job_id]
        if self._refusal:
            raise self._refusal
        waiting = self._waiting.setdefault(job_id, AsyncResult())
        try:
            told: Told = waiting.get()
            return told
        finally:
            self._waiting.pop(job_id, None)
