"""Celery: queues, bindings and limits, all from the lane table."""

import os
import sys
from typing import Any

from celery import Celery
from celery.concurrency import ALIASES
from celery.signals import (
    beat_init,
    setup_logging,
    task_postrun,
    task_prerun,
    worker_ready,
    worker_shutting_down,
)
from kombu import Exchange, Queue
from kombu.transport.virtual.exchange import TopicExchange

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.conf import settings
from django.db import close_old_connections

from config import notify
from config.lanes import Lane, LaneTable


def queues_of(table: LaneTable) -> list[Queue]:
    """Every queue of the lane table with its bindings."""
    exchange = Exchange(table.exchange.name, type=table.exchange.type)
    return [
        Queue(name, exchange, routing_key=binding)
        for lane in table.lanes.values()
        for name, binding in lane.queues.items()
    ]


_known: tuple[LaneTable | None, list[tuple[str, str, str]]] = (None, [])


def bindings(table: LaneTable) -> list[tuple[str, str, str]]:
    """Every binding of the lane table as Kombu has it in Redis: routing key, pattern, queue."""
    global _known  # noqa: PLW0603  (each message asks)
    if _known[0] is not table:
        pattern = TopicExchange(None).key_to_pattern
        found = [(queue.routing_key, pattern(queue.routing_key), queue.name) for queue in queues_of(table)]
        _known = (table, found)
    return _known[1]


def bound_to(table: LaneTable, routing_key: str) -> list[tuple[str, str]]:
    """(lane, queue) of every binding in the lane table that a routing key matches."""
    topic = TopicExchange(None)
    return [
        (name, queue)
        for name, lane in table.lanes.items()
        for queue, binding in lane.queues.items()
        if topic._match(topic.key_to_pattern(binding), routing_key)
    ]


def transport_options(in_worker: bool) -> dict[str, Any]:
    """Redis transport options."""
    options: dict[str, Any] = {
        "ack_emulation": False,  # worker/transport.py says why
        "socket_connect_timeout": 1,
        "socket_timeout": 1,
        "socket_keepalive": True,
        "health_check_interval": 5,
        "max_retries": 0,
    }
    if in_worker:
        # Not for BRPOP, where it waits: that takes two seconds, then comes a health check.
        options |= {"socket_timeout": 5, "socket_connect_timeout": 5, "polling_interval": 2}
        options.pop("max_retries")
    return options


def lane_limits(lane: Lane) -> dict[str, Any]:
    """What a worker of this lane may do, in Celery's own setting names."""
    return {
        "worker_prefetch_multiplier": lane.prefetch_multiplier,
        "task_soft_time_limit": lane.soft_time_limit,
        "task_time_limit": lane.time_limit,
        "worker_max_tasks_per_child": lane.max_tasks_per_child,
    }


LANE = settings.LANES.lanes[settings.ENV.lane] if settings.ENV.lane else None

ALIASES["threads"] = "worker.threads:TaskPool"
app = Celery("headrace", amqp="worker.transport:AMQP")
app.conf.update(
    broker_url=settings.ENV.broker_url,
    broker_transport_options=transport_options(in_worker=LANE is not None),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # without end: after Celery's 100 tries every worker would exit
    result_backend=settings.ENV.result_url or settings.ENV.broker_url,
    result_backend_always_retry=True,
    result_expires=3600,
    task_queues=queues_of(settings.LANES),
    task_default_queue=next(iter(next(reversed(settings.LANES.lanes.values())).queues)),
    task_create_missing_queues=False,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_send_sent_event=False,
    worker_send_task_events=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    timezone="UTC",
    beat_scheduler="jobs.beat:Scheduler",
    beat_schedule={"expire finished jobs": {"task": "jobs.expire", "schedule": 600.0, "options": {"expires": 600}}},
    **(lane_limits(LANE) if LANE else {}),
)
app.conf.CELERY_DB_REUSE_MAX = sys.maxsize  # else Celery connects to the database anew for each task
app.conf.include = ["worker.tasks"]
app.steps["worker"] |= {"worker.lease:LeaseKeeper", "worker.watchdog:Watchdog"}


@setup_logging.connect  # type: ignore[untyped-decorator]
def keep_our_logging(**_: Any) -> None:
    """Does nothing; while it is connected Celery does not set up logging, which Django's LOGGING has done."""


@task_prerun.connect  # type: ignore[untyped-decorator]
@task_postrun.connect  # type: ignore[untyped-decorator]
def keep_good_connections(**_: Any) -> None:
    """As Django does around a request: a connection is kept if it works, or given back if there is a pool."""
    close_old_connections()


@worker_ready.connect  # type: ignore[untyped-decorator]
@beat_init.connect  # type: ignore[untyped-decorator]
def is_up(**_: Any) -> None:
    """The worker consumes, or beat runs: tell systemd that the unit has started."""
    notify.ready()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def is_draining(**_: Any) -> None:
    """A warm shutdown has begun; it ends when the running jobs have ended."""
    notify.stopping()
