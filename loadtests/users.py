"""Closed model: so many users side by side, each with connections of its own."""

from locust import User, task
from locust.exception import StopUser

from loadtests import context
from loadtests.api import Api
from loadtests.client import Client


class Waiting(User):
    """Submits, waits for its result, pauses, and so on."""

    abstract = True

    def on_start(self) -> None:
        """Its own connections."""
        self.load = context.current()
        self.client = Client(self.load.desk, Api(self.load.target, self.load.desk.shape.batch_size))

    def on_stop(self) -> None:
        self.client.api.close()

    @task
    def work(self) -> None:
        """Until the stages are over."""
        if self.load.ending.is_set():
            raise StopUser
        self.act()
        self.load.ending.wait(self.load.desk.shape.pause_s)

    def act(self) -> None:
        """What this user does once."""
        raise NotImplementedError


class Single(Waiting):
    """One job at a time, followed on its WebSocket."""

    def act(self) -> None:
        self.client.one(self.load.desk.piece(), "single")


class Keyed(Waiting):
    """Sends each submit twice, with an idempotency key."""

    def act(self) -> None:
        self.client.one(self.load.desk.piece(), "keyed")


class Batch(Waiting):
    """Several jobs in one request."""

    def act(self) -> None:
        desk = self.load.desk
        self.client.batch([desk.piece() for _ in range(desk.shape.batch_size)])


class Poll(Waiting):
    """Asks again and again instead of following, for comparison."""

    def act(self) -> None:
        self.client.one(self.load.desk.piece(), "poll")


CLOSED: dict[str, type[Waiting]] = {"single": Single, "keyed": Keyed, "batch": Batch, "poll": Poll}
