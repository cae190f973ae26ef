"""Beat has no single point of failure: real beats on a schedule of one second, a real broker, real signals."""

import json
import signal
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.schedules import crontab, schedule
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone
from kombu.transport.redis import Channel

from config.celery import app
from harness.processes import Process
from harness.servers import Redis
from harness.waiting import free_port, wait_until
from jobs.beat import Scheduler
from jobs.leader import BEAT, TERM_S
from jobs.models import Leader, ScheduleEntry

pytestmark = pytest.mark.django_db(transaction=True)
TAKEOVER_S = TERM_S + 5  # the term, a round, and a busy machine
StartBeat = Callable[..., Process]


@pytest.fixture
def start_beat(launch: Callable[..., Process], empty_broker: Redis) -> StartBeat:
    """Start a beat, and wait until it ticks."""

    def start(name: str, **env: str) -> Process:
        process = launch(name, "celery", "-A", "tests.app.jobs.every_second", "beat", "-l", "INFO", "--pidfile=", **env)
        wait_until(lambda: process.alive() and "beat: Starting" in process.output(), why=f"{name} starts")
        return process

    return start


def leader() -> int:
    """The process that leads, or 0."""
    row = Leader.objects.filter(role=BEAT, until__gt=Now()).first()
    return int(row.holder.rpartition(":")[2]) if row else 0


def leads(process: Process) -> None:
    wait_until(lambda: process.alive() and leader() == process.child.pid, TAKEOVER_S, f"{process.name} leads")


def runs() -> int:
    """How often the entry has been claimed."""
    return sum(ScheduleEntry.objects.values_list("total_run_count", flat=True))


def sent(broker: Redis) -> list[str]:
    """The messages in the queue, first sent first, by the run that they say they are."""
    raw = redis.Redis.from_url(broker.url).lrange("quick", 0, -1)
    return [json.loads(message)["headers"]["id"] for message in reversed(raw)]


def fires_on(broker: Redis, more: int = 2) -> None:
    """It is left between two runs: what a test does next hits no message that is on its way."""
    goal = runs() + more
    wait_until(lambda: goal <= runs() == len(sent(broker)), TAKEOVER_S, "beat fires")


def each_run_was_sent_once(broker: Redis) -> None:
    wait_until(lambda: len(sent(broker)) >= runs(), why="what is claimed is sent")
    found = sent(broker)
    assert found == [f"tick #{number}" for number in range(1, len(found) + 1)]


def test_one_of_two_fires_and_the_other_follows_when_it_freezes_or_dies(
    start_beat: StartBeat, empty_broker: Redis
) -> None:
    first = start_beat("first")
    leads(first)
    second = start_beat("second")
    fires_on(empty_broker)
    assert "Sending due task" not in second.output()
    first.signal(signal.SIGSTOP)
    leads(second)
    first.signal(signal.SIGCONT)
    fires_on(empty_broker, 3)
    assert leader() == second.child.pid
    second.kill()
    leads(first)
    fires_on(empty_broker)
    each_run_was_sent_once(empty_broker)


def test_stopped_leader_sends_what_it_has_claimed_and_hands_over_at_once(
    start_beat: StartBeat, empty_broker: Redis
) -> None:
    first = start_beat("first", PUBLISH_TAKES_S="1")
    leads(first)
    second = start_beat("second")
    wait_until(lambda: runs() > len(sent(empty_broker)), why="a run is claimed, and its message on its way")
    first.child.terminate()
    assert first.child.wait(10) == 0
    wait_until(lambda: leader() == second.child.pid, TERM_S / 2, "the second leads before the first's term is over")
    fires_on(empty_broker)
    each_run_was_sent_once(empty_broker)


def test_broker_that_goes_and_comes_back_costs_no_run(start_beat: StartBeat, empty_broker: Redis) -> None:
    one = start_beat("one")

    def waits(times: int) -> bool:
        return one.alive() and one.output().count("broker out of reach") >= times

    fires_on(empty_broker, 1)
    empty_broker.stop()
    wait_until(lambda: waits(2), why="it waits")
    empty_broker.start()
    fires_on(empty_broker, 1)
    with empty_broker.paused():
        wait_until(lambda: waits(3), why="it waits again")
    fires_on(empty_broker, 1)
    each_run_was_sent_once(empty_broker)


def test_leader_that_does_not_reach_the_broker_gives_way(start_beat: StartBeat, empty_broker: Redis) -> None:
    cut_off = start_beat("cut off", HEADRACE_BROKER_URL=f"redis://127.0.0.1:{free_port()}/0")
    wait_until(lambda: "broker out of reach" in cut_off.output(), why="it leads, and something is due")
    start_beat("well connected")
    fires_on(empty_broker)
    each_run_was_sent_once(empty_broker)


def test_lost_database_connections_are_made_again(start_beat: StartBeat, empty_broker: Redis) -> None:
    one = start_beat("one")
    fires_on(empty_broker, 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    wait_until(lambda: one.alive() and "database out of reach" in one.output(), why="it waits")
    fires_on(empty_broker)
    each_run_was_sent_once(empty_broker)


def test_every_round_feeds_the_watchdog(start_beat: StartBeat, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        start_beat("one", NOTIFY_SOCKET=str(tmp_path / "notify"))
        told = [systemd.recv(4096).decode() for _ in range(4)]
    assert told == ["READY=1", *["WATCHDOG=1\nSTATUS=leads"] * 3]


# ---- one round, here ------------------------------------------------------------------------------------------------

MakeBeat = Callable[..., Scheduler]


@pytest.fixture
def make_beat(monkeypatch: pytest.MonkeyPatch, empty_broker: Redis) -> MakeBeat:
    """A scheduler of one entry, last fired some time ago."""

    def make(every: Any, ago: timedelta = timedelta(0), **more: Any) -> Scheduler:
        entries = {"tick": {"task": "jobs.expire", "schedule": every}} | more
        monkeypatch.setitem(app.conf, "beat_schedule", entries)
        ScheduleEntry.objects.update_or_create(name="tick", defaults={"last_run_at": Now() - ago})
        return Scheduler(app)

    return make


@pytest.mark.parametrize("every", [600.0, crontab(minute="*/10"), crontab(hour="*/2", minute="0")])
def test_what_fell_due_while_nobody_led_is_made_up_for_once(
    every: Any, make_beat: MakeBeat, empty_broker: Redis
) -> None:
    one = make_beat(every, timedelta(days=1))
    for _ in range(3):
        one.tick()
    assert sent(empty_broker) == ["tick #1"]


def test_new_entry_waits_for_its_first_time(make_beat: MakeBeat, empty_broker: Redis) -> None:
    one = make_beat(600.0, new={"task": "jobs.expire", "schedule": 600.0})
    one.tick()
    one.tick()
    assert sent(empty_broker) == []
    assert set(ScheduleEntry.objects.values_list("name", flat=True)) == {"tick", "new"}


def test_two_that_lead_at_once_fire_once(
    make_beat: MakeBeat, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is frozen when it has seen that a run is due; the other fires it; the first wakes up."""
    frozen, other = make_beat(600.0, timedelta(hours=1)), make_beat(600.0, timedelta(hours=1))

    def until_the_other_has_fired(entry: Any) -> Any:
        seen = Scheduler.is_due(frozen, entry)
        other.tick()
        assert sent(empty_broker) == ["tick #1"]
        return seen

    monkeypatch.setattr("jobs.beat.lead", lambda *_: True)
    monkeypatch.setattr(frozen, "is_due", until_the_other_has_fired)
    frozen.tick()
    assert sent(empty_broker) == ["tick #1"]
    assert runs() == 1


def test_time_between_the_look_and_the_claim_is_looked_at_again(
    make_beat: MakeBeat, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what falls due in between would be taken for fired."""
    one, seen = make_beat(600.0, timedelta(hours=1)), []

    def slow(entry: Any) -> Any:
        seen.append(entry.schedule.now())
        return Scheduler.is_due(one, entry)

    monkeypatch.setattr(one, "is_due", slow)
    one.tick()
    assert sent(empty_broker) == ["tick #1"]
    assert list(ScheduleEntry.objects.values_list("last_run_at", flat=True)) == seen


def test_message_is_not_sent_again_when_the_brokers_answer_is_lost(
    make_beat: MakeBeat, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Channel._put

    def put_and_lose_the_answer(*args: Any, **kwargs: Any) -> None:
        put(*args, **kwargs)
        raise redis.ConnectionError("Connection reset by peer")

    one = make_beat(600.0, timedelta(hours=1))
    monkeypatch.setattr(Channel, "_put", put_and_lose_the_answer)
    one.tick()
    one.tick()
    assert sent(empty_broker) == ["tick #1"]


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(days=1)])
def test_hosts_clock_does_not_matter(
    step: timedelta, make_beat: MakeBeat, empty_broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(app), "now", lambda self: timezone.now() + step)
    make_beat(600.0).tick()
    assert sent(empty_broker) == [], "it is not due"
    make_beat(600.0, timedelta(minutes=11)).tick()
    assert sent(empty_broker) == ["tick #1"], "it is due"


def test_queue_that_the_broker_forgot_is_bound_before_a_run_is_sent(make_beat: MakeBeat, empty_broker: Redis) -> None:
    one = make_beat(600.0, timedelta(hours=1))
    one.tick()
    redis.Redis.from_url(empty_broker.url).flushall()
    ScheduleEntry.objects.update(last_run_at=Now() - timedelta(hours=1))
    one.tick()
    assert sent(empty_broker) == ["tick #2"]


class Impossible(schedule):
    def is_due(self, last_run_at: datetime) -> Any:
        raise ValueError("never")


def test_impossible_entry_does_not_stop_the_others(make_beat: MakeBeat, empty_broker: Redis) -> None:
    one = make_beat(600.0, timedelta(hours=1), broken={"task": "jobs.expire", "schedule": Impossible(1)})
    for _ in range(2):
        one.tick()
    assert sent(empty_broker) == ["tick #1"]
