"""The work, and what retries the jobs of a dead worker, as procrastinate's page on stalled jobs has it."""

from typing import Any

from django.utils.timezone import now
from procrastinate.contrib.django import app

from benchmarks.baseline.work import Asked, Standing, run
from benchmarks.peers.procrastinated.models import Result


@app.task(queue="cpu", pass_context=True)  # type: ignore[untyped-decorator]
def work(context: Any, kind: str, params: dict[str, Any]) -> None:
    """Run one job, and keep what came of it."""
    result = Result(job_id=context.job.id, result=run(kind, params), finished_at=now())
    Result.objects.bulk_create([result], ignore_conflicts=True)


@app.periodic(cron="*/10 * * * *")  # type: ignore[untyped-decorator]
@app.task(queueing_lock="retry_stalled_jobs", pass_context=True)  # type: ignore[untyped-decorator]
async def retry_stalled_jobs(context: Any, timestamp: int) -> None:
    """Every ten minutes: what a worker without a heartbeat has left."""
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(job)


def submit(kind: str, params: dict[str, Any]) -> str:
    """A row, for a queue of its kind."""
    return str(work.configure(queue="io" if kind == "wait" else "cpu").defer(kind=kind, params=params))


def look(task_id: str) -> Standing:
    """A job without a result has not ended, or not well."""
    found = Result.objects.filter(pk=int(task_id)).first()
    return ("SUCCESS", found.result, found.finished_at) if found else ("PENDING", None, None)


def _batch(asked: list[Asked]) -> list[str]:
    """Digests, all for one queue."""
    return [str(job) for job in work.batch_defer(*({"kind": kind, "params": params} for kind, params in asked))]


WAYS = {"defer": lambda asked: [submit(*one) for one in asked], "batch_defer": _batch}
