"""`python -m benchmarks.probe USER SECONDS`: submits, claims and finishes jobs in this process, and times each; without
SECONDS it opens the fleet page and takes jobs back from a dead worker, some times.

Nothing is published and no hint is sent: what is asked is what the ledger costs, and a worker would take the job.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator

import django

django.setup()

from django.conf import settings  # noqa: E402  (Django's models need the line above)
from django.contrib.auth import get_user_model  # noqa: E402
from django.db.models.functions import Now  # noqa: E402
from django.test import Client  # noqa: E402

from fleet import status  # noqa: E402
from jobs import hints, publish, services, submit  # noqa: E402
from jobs.models import Job  # noqa: E402

LOOKS = 15


def _unheard(*_: object) -> bool:
    return True


def one(owner_id: int, number: int) -> tuple[float, float, float]:
    """Seconds of submit, claim and finish of one job."""
    moments = [time.perf_counter()]
    [(job, _)] = submit.submit(owner_id, [submit.Submission("digest", {"text": str(number)})])
    moments.append(time.perf_counter())
    claim = services.claim(job.pk, "probe", "solo")
    moments.append(time.perf_counter())
    if claim is None or not services.succeed(claim, {"words": 1}):
        raise RuntimeError("somebody else has taken the job")
    moments.append(time.perf_counter())
    return moments[1] - moments[0], moments[2] - moments[1], moments[3] - moments[2]


def page(user_id: int) -> Iterator[float]:
    """Seconds of the fleet page, asked of the ledger each time."""
    status.SEEN_FOR_S = 0.0
    client = Client(headers={"host": settings.ALLOWED_HOSTS[0]})
    client.force_login(get_user_model().objects.get(pk=user_id))
    for _ in range(LOOKS):
        began = time.perf_counter()
        if (code := client.get("/fleet/", secure=True).status_code) != 200:
            raise RuntimeError(f"the fleet page is answered {code}")
        yield time.perf_counter() - began


def recovery(owner_id: int) -> Iterator[float]:
    """Seconds of finding a job whose lease has run out, and of queueing it again."""
    for number in range(LOOKS):
        [(job, _)] = submit.submit(owner_id, [submit.Submission("digest", {"text": str(number)})])
        services.claim(job.pk, "probe", "solo")
        Job.objects.filter(pk=job.pk).update(lease_until=Now())
        began = time.perf_counter()
        for lost in services.expired_leases(1):
            services.lose(lost, "it was made to")
        yield time.perf_counter() - began
        services.cancel(job.pk)


def looks(owner_id: int) -> dict[str, float]:
    """Medians in ms."""
    times = {"fleet_p50": page(owner_id), "recover_p50": recovery(owner_id)}
    return {name: statistics.median(each) * 1000 for name, each in times.items()}


def jobs_for(owner_id: int, seconds: float) -> dict[str, float]:
    """Medians in ms, the number of jobs, and this process's CPU per job."""
    for number in range(20):  # connections, plans and caches are made
        one(owner_id, number)
    jobs: list[tuple[float, float, float]] = []
    began, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        jobs.append(one(owner_id, len(jobs)))
    used = (time.process_time() - cpu) * 1000 / len(jobs)
    names = ("submit_p50", "claim_p50", "finish_p50")
    medians = {name: statistics.median(each) * 1000 for name, each in zip(names, zip(*jobs, strict=True), strict=True)}
    return {**medians, "jobs": len(jobs), "probe_cpu": used}


def main(user: str, seconds: str = "") -> None:
    """One line of JSON."""
    for module, name in ((submit, publish.publish.__name__), (hints, hints._publish.__name__)):
        setattr(module, name, _unheard)
    owner_id = get_user_model().objects.get(username=user).pk
    print(json.dumps(jobs_for(owner_id, float(seconds)) if seconds else looks(owner_id)))


if __name__ == "__main__":
    main(*sys.argv[1:])
