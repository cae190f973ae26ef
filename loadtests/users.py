"""Locust's users: those of a closed shape, each of which waits for its result, and the arrivals of an open one."""

from collections.abc import Iterator

import gevent
from gevent.pool import Group
from locust import User, task
from locust.exception import StopUser

from loadtests import context
from loadtests.api import Api
from loadtests.client import Client
from loadtests.clock import now
from loadtests.shapes import Way, arrivals
from loadtests.work import Piece

CONNECTIONS = 200
"""Requests that an open shape may have open at once, for each process."""


class Waiting(User):
    """A user of a closed shape: submits, waits for the result, pauses, and begins again."""

    abstract = True
    way: Way = "single"

    def on_start(self) -> None:
        self.load = context.current()
        self.client = Client(self.load.desk, Api(self.load.target, self.load.desk.shape.batch_size))

    def on_stop(self) -> None:
        self.client.api.close()

    @task
    def work(self) -> None:
        """One round; none after the last stage."""
        if self.load.ending.is_set():
            raise StopUser
        self.act()
        self.load.ending.wait(self.load.desk.shape.pause_s)

    def act(self) -> None:
        """One job from submit to verdict."""
        self.client.one(self.load.desk.piece(), self.way)


class Single(Waiting):
    """Follows its job on a WebSocket."""


class Keyed(Waiting):
    """Sends each submit twice, with an idempotency key."""

    way = "keyed"


class Poll(Waiting):
    """Polls instead of following, for comparison."""

    way = "poll"


class Batch(Waiting):
    """Submits several jobs in one request."""

    def act(self) -> None:
        desk = self.load.desk
        self.client.batch([desk.piece() for _ in range(desk.shape.batch_size)])


CLOSED: dict[str, type[Waiting]] = {"single": Single, "keyed": Keyed, "batch": Batch, "poll": Poll}


class Arrivals(User):
    """The one user of an open shape in each process: submits this process's share of the jobs, each in a greenlet."""

    def on_start(self) -> None:
        self.load = context.current()
        self.client = Client(self.load.desk, Api(self.load.target, CONNECTIONS))
        self.jobs = Group()

    def on_stop(self) -> None:
        self.jobs.kill()
        self.client.api.close()

    @task
    def arrive(self) -> None:
        """Submit until the last stage is over, then wait for the jobs that are under way."""
        streams = [gevent.spawn(self._stream, piece) for piece in self.load.desk.pieces]
        try:
            gevent.joinall(streams)
            self.jobs.join()
        finally:
            gevent.killall(streams)
            self.jobs.kill()
        raise StopUser

    def _stream(self, piece: Piece) -> None:
        """Submit the jobs of one piece, each counted from the moment it was due, however late we are."""
        for due_at in self.moments(piece):
            if self.load.ending.wait(max(0.0, due_at - now())):
                return
            self.jobs.spawn(self.client.one, piece, self.load.desk.way(), due_at)

    def moments(self, piece: Piece) -> Iterator[float]:
        """When the jobs of a piece are due. Each stream begins at random, so that they do not all submit at once."""
        run = self.load
        spans = [(stage.seconds, run.rate(piece, stage) / run.processes) for stage in run.desk.shape.stages]
        return (run.began + at for at in arrivals(spans, run.desk.chance.random()))
