"""How we hold on to Redis. Each workaround has a test of itself, and one that fails when it can go."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import kombu
import pytest
import redis
from celery.worker import state

from harness.servers import Redis
from harness.waiting import free_port
from worker import transport as ours

GONE = "Kombu no longer does this: what stands for it in app/worker/transport.py can go, and this test with it."


@pytest.fixture
def state_of_a_worker() -> Iterator[Any]:
    state.reset_state()
    yield state
    state.reset_state()
    state.should_stop = None


def consumed(connection: Any, broker: Redis) -> Any:
    """A message that a worker would be running: taken, unacknowledged, with the next BRPOP on its way."""
    redis.Redis.from_url(broker.url).flushall()
    taken: list[Any] = []
    connection.SimpleQueue("work").put({})
    everybody = kombu.Queue("control", kombu.Exchange("everybody", type="fanout"), auto_delete=True)
    work = connection.Consumer(kombu.Queue("work"), callbacks=[lambda _, message: taken.append(message)])
    work.consume()
    kombu.Consumer(connection.channel(), everybody).consume()  # remote control has a channel of its own
    while not taken or not connection.default_channel._in_poll:
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
    return taken[0]


def lose(connection: Any) -> None:
    """What Celery's consumer does when its connection has failed."""
    connection.collect()
    connection.close()


def test_task_is_acknowledged_after_its_connection_was_lost(broker: Redis) -> None:
    connection = ours.Connection(broker.url)
    message = consumed(connection, broker)
    broker.stop()
    try:
        lose(connection)
    finally:
        broker.start()
    assert redis.Redis.from_url(broker.url).hlen("unacked") == 1
    message.ack()
    assert redis.Redis.from_url(broker.url).hlen("unacked") == 0


def test_kombu_still_breaks_on_a_lost_connection(broker: Redis) -> None:
    connection = kombu.Connection(broker.url)
    message = consumed(connection, broker)
    broker.stop()
    errors = []
    for step in (partial(lose, connection), message.ack):
        try:
            step()
        except AttributeError as error:
            errors.append(str(error))
    broker.start()
    assert len(errors) == 2, GONE
    assert "'NoneType' object has no attribute 'hostname'" in errors[0]


def room_after_a_failed_ack(make: Callable[[str], Any], broker: Redis) -> bool:
    """Whether a worker with a window of one may take another message."""
    connection = make(broker.url)
    message = consumed(connection, broker)
    message.channel.basic_qos(0, 1, False)
    assert not message.channel.qos.can_consume()
    broker.stop()
    with pytest.raises(redis.ConnectionError):
        message.ack()
    broker.start()
    room = bool(message.channel.qos.can_consume())
    message.channel.qos._delivered.clear()  # nothing to give back when Python exits
    return room


def test_ack_that_does_not_get_through_costs_no_place_in_the_window(broker: Redis) -> None:
    assert room_after_a_failed_ack(ours.Connection, broker)


def test_kombu_still_keeps_the_place_of_a_failed_ack(broker: Redis) -> None:
    assert not room_after_a_failed_ack(kombu.Connection, broker), GONE


def given_back(make: Callable[[str], Any], broker: Redis, worker: Any) -> int:
    """How many messages of running tasks are in the queue again once the connection is lost."""
    connection = make(broker.url)
    request = Mock(id="1", message=consumed(connection, broker))
    worker.requests["1"] = request
    worker.active_requests.add(request)
    lose(connection)
    return int(redis.Redis.from_url(broker.url).llen("work"))


def test_what_still_runs_is_not_given_back(broker: Redis, state_of_a_worker: Any) -> None:
    assert given_back(ours.Connection, broker, state_of_a_worker) == 0


def test_what_runs_is_given_back_when_the_worker_ends(broker: Redis, state_of_a_worker: Any) -> None:
    state_of_a_worker.should_stop = 0
    assert given_back(ours.Connection, broker, state_of_a_worker) == 1


def test_kombu_still_gives_back_what_runs(broker: Redis, state_of_a_worker: Any) -> None:
    assert given_back(kombu.Connection, broker, state_of_a_worker) == 1, GONE


def given_back_by_a_host_an_hour_ahead(make: Callable[..., Any], broker: Redis, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many messages that were taken a moment ago are no longer unacknowledged once it has looked."""
    connection = make(broker.url, transport_options={"visibility_timeout": 600})
    message = consumed(connection, broker)
    with monkeypatch.context() as patch:
        now = time.time
        patch.setattr("kombu.transport.redis.time", lambda: now() + 3600)
        patch.setattr(ours, "time", SimpleNamespace(time=lambda: now() + 3600, monotonic=time.monotonic))
        message.channel.qos.restore_visible(interval=1)
    message.channel.qos._delivered.clear()  # nothing to give back when Python exits
    kept = int(redis.Redis.from_url(broker.url).hlen("unacked"))
    lose(connection)
    return 1 - kept


def test_a_host_whose_clock_is_wrong_gives_nothing_back(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_back_by_a_host_an_hour_ahead(ours.Connection, broker, monkeypatch) == 0


def test_kombu_still_trusts_every_hosts_clock(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_back_by_a_host_an_hour_ahead(kombu.Connection, broker, monkeypatch) == 1, GONE


def test_absent_broker_is_tried_every_other_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for ever: Celery's own limit would end a worker."""
    from config.celery import app

    slept: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", slept.append)
    pauses: list[float] = []

    def failed(_: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 150:
            raise KeyboardInterrupt

    assert app.conf.broker_connection_max_retries is None
    connection = app.connection_for_read(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(KeyboardInterrupt):
        connection.ensure_connection(failed, app.conf.broker_connection_max_retries)
    assert set(pauses) == {2}
    assert sum(slept) == pytest.approx(2 * 149)
