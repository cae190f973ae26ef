"""Open model: jobs arrive at a constant rate, whether the server keeps up or not (no coordinated omission)."""

from collections.abc import Iterator

import gevent
from gevent.pool import Group
from locust import User, task
from locust.exception import StopUser

from loadtests import context
from loadtests.api import Api
from loadtests.client import Client
from loadtests.clock import now
from loadtests.shapes import arrivals
from loadtests.work import Piece

CONNECTIONS = 200


class Arrivals(User):
    """One a process: sends that process's share of what arrives, each job in a greenlet of its own."""

    def on_start(self) -> None:
        self.load = context.current()
        self.client = Client(self.load.desk, Api(self.load.target, CONNECTIONS))
        self.jobs = Group()

    def on_stop(self) -> None:
        self.jobs.kill()
        self.client.api.close()

    @task
    def arrive(self) -> None:
        """Until the stages are over; then see through what is under way."""
        streams = [gevent.spawn(self._stream, piece) for piece in self.load.desk.pieces]
        try:
            gevent.joinall(streams)
            self.jobs.join()
        finally:
            gevent.killall(streams)
            self.jobs.kill()
        raise StopUser

    def _stream(self, piece: Piece) -> None:
        """However late we are, each job is counted from the moment that it was due."""
        for due_at in self.moments(piece):
            if self.load.ending.wait(max(0.0, due_at - now())):
                return
            self.jobs.spawn(self.client.one, piece, self.load.desk.way(), due_at)

    def moments(self, piece: Piece) -> Iterator[float]:
        """When the jobs of a piece are due. Streams of one rate, and processes, do not all send in the same moment."""
        run = self.load
        spans = [(stage.seconds, run.rate(piece, stage) / run.processes) for stage in run.desk.shape.stages]
        return (run.began + at for at in arrivals(spans, run.desk.chance.random()))
