"""For monitoring: /healthz (is this process up?), /readyz (can it serve?), /metrics (Prometheus).

None of the three needs a sign-in, so the load balancer must not make them public. ALLOWED_HOSTS holds for them as for
every other address: a probe that calls a host by its IP is answered 400, unless it sends an allowed `Host` header
(`curl -H 'Host: ...'`; Prometheus: `http_headers`) or the inventory allows the IP.
"""

from collections.abc import Callable, Iterator
from functools import cache

from django.db import Error as DatabaseError
from django.db import connection
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.status import LaneStatus, Sweeping, lanes, sweeping
from jobs import backpressure
from jobs.models import Leader
from jobs.room import room


def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the process answers; nothing else is checked."""
    return HttpResponse("ok", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """200 while the database answers: submits are accepted without a broker, so a dead one is only reported; and in a
    full database jobs can still be looked at.
    """
    database = _database()
    answer = {"database": database, "broker": backpressure.state()[0]}
    return JsonResponse(answer, status=503 if database == "down" else 200)


def metrics(request: HttpRequest) -> HttpResponse:
    """The whole fleet, from the ledger, so that any web host gives the same answer."""
    try:
        return HttpResponse(generate_latest(_registry()), content_type=CONTENT_TYPE_LATEST)
    except DatabaseError:
        return HttpResponse("The database is out of reach.", status=503, content_type="text/plain")


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return "full" if room().full else "ok"
    except DatabaseError:
        return "down"


GAUGES: dict[str, tuple[str, Callable[[LaneStatus], float]]] = {
    "queued_jobs": ("Jobs that wait for a worker and are due.", lambda lane: lane.queued),
    "running_jobs": ("Jobs that a worker runs.", lambda lane: lane.running),
    "oldest_queued_seconds": ("How long the oldest of them has waited.", lambda lane: lane.oldest_queued_s or 0),
    "latency_target_seconds": ("How long a job should wait at most.", lambda lane: lane.latency_target_s),
    "max_backlog_jobs": ("Submits are refused from here on.", lambda lane: lane.max_backlog),
    "finished_per_minute": ("Jobs that ended, over the last minutes.", lambda lane: lane.finished_per_minute),
    "failed_per_minute": ("Those of them that failed.", lambda lane: lane.failed_per_minute),
    "slots": ("Jobs that its workers can run at once.", lambda lane: lane.slots),
    "workers": ("Worker units that are alive.", lambda lane: len(lane.workers)),
}


class FleetCollector(Collector):
    """Asks the database at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """A gauge for each fact about a lane, labelled by lane; and the metrics of the whole fleet."""
        yield from _lane_gauges(lanes())
        yield from _broker_gauges()
        yield from _database_gauges()
        leader = GaugeMetricFamily("headrace_leader", "1 for who leads a role now.", labels=["role", "holder"])
        for one in Leader.objects.filter(until__gte=Now()):
            leader.add_metric([one.role, one.holder], 1)
        yield leader
        yield from _sweeper_metrics(sweeping())


def _lane_gauges(status: list[LaneStatus]) -> Iterator[Metric]:
    for name, (what, value) in GAUGES.items():
        gauge = GaugeMetricFamily(f"headrace_lane_{name}", what, labels=["lane"])
        for lane in status:
            gauge.add_metric([lane.name], value(lane))
        yield gauge


def _broker_gauges() -> Iterator[Metric]:
    word, share = backpressure.state()
    yield GaugeMetricFamily("headrace_broker_up", "1 if the broker answers this host.", word != "down")
    yield GaugeMetricFamily("headrace_broker_writable", "1 if it takes messages.", word in {"ok", "full"})
    yield GaugeMetricFamily("headrace_broker_memory_share", "Of its maxmemory; 0: it has no limit.", share)
    yield GaugeMetricFamily(
        "headrace_broker_full", "1 when it has so little room left that publishing stops.", word == "full"
    )


def _database_gauges() -> Iterator[Metric]:
    now = room()
    yield GaugeMetricFamily("headrace_database_bytes", "What it takes of its disk and cannot use again.", now.used)
    yield GaugeMetricFamily("headrace_database_max_bytes", "What it may take; 0: it has no limit.", now.most)
    yield GaugeMetricFamily("headrace_database_full", "1 when it takes more, so that no job is accepted.", now.full)


def _sweeper_metrics(now: Sweeping) -> Iterator[Metric]:
    done = now.done
    moved = CounterMetricFamily("headrace_sweeper_moved", "Jobs that the sweeper put right.", labels=["step"])
    for step in ("lost", "due", "overtaken"):
        moved.add_metric([step], getattr(done, step))
    yield moved
    yield CounterMetricFamily("headrace_sweeper_rounds", "Rounds of all sweepers.", done.rounds)
    yield CounterMetricFamily("headrace_poisoned_jobs", "Jobs given up because their workers died.", done.poisoned)
    yield GaugeMetricFamily("headrace_sweeper_round_seconds", "How long the last round took.", done.round_s)
    if now.ago_s is not None:
        yield GaugeMetricFamily("headrace_sweeper_round_age_seconds", "How long ago it ended.", now.ago_s)


@cache
def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(FleetCollector())
    return registry
