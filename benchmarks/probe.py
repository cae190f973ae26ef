"""`python -m benchmarks.probe USER SECONDS`: submits, claims and finishes jobs in this process, and times each.

The publish and the hints are left out: what is asked is what the ledger costs, and a worker would take the job.
"""

import json
import statistics
import sys
import time

import django

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402  (Django's models need the line above)

from jobs import hints, publish, services, submit  # noqa: E402


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


def main(user: str, seconds: float) -> None:
    """One line of JSON: medians in ms, the number of jobs, and this process's CPU per job."""
    for module, name in ((submit, publish.publish.__name__), (hints, hints.tell.__name__)):
        setattr(module, name, _unheard)
    owner_id = get_user_model().objects.get(username=user).pk
    for number in range(20):  # connections, plans and caches are made
        one(owner_id, number)
    jobs: list[tuple[float, float, float]] = []
    began, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        jobs.append(one(owner_id, len(jobs)))
    used = (time.process_time() - cpu) * 1000 / len(jobs)
    names = ("submit_p50", "claim_p50", "finish_p50")
    medians = {name: statistics.median(each) * 1000 for name, each in zip(names, zip(*jobs, strict=True), strict=True)}
    print(json.dumps({**medians, "jobs": len(jobs), "probe_cpu": used}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
