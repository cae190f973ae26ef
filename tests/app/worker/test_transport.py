"""How we hold on to Redis. Each workaround has a test of itself, and one that fails when it can go."""

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import kombu
import pytest
import redis
from celery.worker import state
from django.conf import settings

from harness.servers import Redis
from harness.waiting import free_port
from worker import transport as ours


@pytest.fixture
def state_of_a_worker() -> Iterator[Any]:
    state.reset_state()
    yield state
    state.reset_state()
    state.should_stop = None


OPTIONS = {"ack_emulation": False}


def consumed(connection: Any, broker: Redis, count: int = 1) -> list[Any]:
    """Messages that a worker has taken, with the next BRPOP on its way."""
    redis.Redis.from_url(broker.url).flushall()
    taken: list[Any] = []
    for number in range(count):
        connection.SimpleQueue("work").put({"number": number})
    everybody = kombu.Queue("control", kombu.Exchange("everybody", type="fanout"), auto_delete=True)
    work = connection.Consumer(kombu.Queue("work"), callbacks=[lambda _, message: taken.append(message)])
    work.consume()
    kombu.Consumer(connection.channel(), everybody).consume()  # remote control has a channel of its own
    while len(taken) < count or not connection.default_channel._in_poll:
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.1)
    return taken


def lose(connection: Any) -> None:
    """What Celery's consumer does when its connection has failed."""
    connection.collect()
    connection.close()


def left(broker: Redis) -> list[int]:
    """What a worker would take next, in its order."""
    found = redis.Redis.from_url(broker.url).lrange("work", 0, -1)
    return [json.loads(base64.b64decode(json.loads(raw)["body"]))["number"] for raw in reversed(found)]


def test_a_message_is_forgotten_by_redis_when_it_is_taken(broker: Redis) -> None:
    connection = ours.Connection(broker.url, transport_options=OPTIONS)
    [message] = consumed(connection, broker)
    known = redis.Redis.from_url(broker.url)
    before = known.info("commandstats")
    message.ack()
    assert [key for key in known.scan_iter() if b"unacked" in key] == []
    ours_since = set(known.info("commandstats")) - set(before)
    assert ours_since <= {"cmdstat_keys", "cmdstat_scan", "cmdstat_info"}
    lose(connection)


def test_what_was_not_begun_is_put_back_when_the_broker_is_there_again(broker: Redis) -> None:
    connection = ours.Connection(broker.url, transport_options=OPTIONS)
    consumed(connection, broker)
    broker.stop()
    broker.start()
    lose(connection)
    assert left(broker) == [0]


def test_what_was_not_begun_is_put_back_into_a_broker_that_was_wiped(broker: Redis) -> None:
    """Kombu asks Redis where a message goes, and drops it where Redis has forgotten."""
    connection = ours.Connection(broker.url, transport_options=OPTIONS)
    headrace = kombu.Exchange(settings.LANES.exchange.name, type=settings.LANES.exchange.type)
    queue = kombu.Queue("quick", headrace, routing_key="quick.#")
    taken: list[Any] = []
    client = redis.Redis.from_url(broker.url)
    with connection.Consumer(queue, callbacks=[lambda _, message: taken.append(message)]):
        connection.Producer().publish({}, exchange=headrace, routing_key="quick.digest")
        while not taken:
            connection.drain_events(timeout=5)
        client.flushall()
        lose(connection)
    assert client.llen("quick") == 1


def test_a_broker_that_stays_away_is_no_error(broker: Redis) -> None:
    connection = ours.Connection(broker.url, transport_options=OPTIONS)
    [message] = consumed(connection, broker)
    broker.stop()
    try:
        lose(connection)
        message.ack()
    finally:
        broker.start()


def test_what_runs_is_not_given_back_and_the_rest_is_first_in_line(broker: Redis, state_of_a_worker: Any) -> None:
    connection = ours.Connection(broker.url, transport_options=OPTIONS)
    running, _, ended, _ = consumed(connection, broker, 4)
    request = Mock(id="1", message=running)
    state_of_a_worker.requests["1"] = request
    state_of_a_worker.active_requests.add(request)
    ended.ack()
    connection.SimpleQueue("work").put({"number": 9})
    lose(connection)
    assert left(broker) == [1, 3, 9]


def test_the_window_holds_what_is_not_acknowledged(broker: Redis) -> None:
    connection = ours.Connection(broker.url, transport_options=OPTIONS)
    [message] = consumed(connection, broker)
    message.channel.basic_qos(0, 1, False)
    assert not message.channel.qos.can_consume()
    message.ack()
    assert message.channel.qos.can_consume()
    lose(connection)


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
