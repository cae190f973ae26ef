"""The same work as ours, called by a task with nothing around it."""

from typing import Any

from celery import group
from celery.result import AsyncResult

from benchmarks.baseline.celery import app
from benchmarks.baseline.work import Asked, Standing, run


@app.task  # type: ignore[untyped-decorator]
def work(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """Run one job; what it returns goes to the result backend."""
    return run(kind, params)


def submit(kind: str, params: dict[str, Any]) -> str:
    """Hand the work to Celery."""
    return str(work.delay(kind, params).id)


def look(task_id: str) -> Standing:
    """How a task stands, from the result backend, asked once."""
    task = AsyncResult(task_id, app=app)
    state = task.status
    if state not in ("SUCCESS", "FAILURE"):
        return state, None, None
    return state, task.result if state == "SUCCESS" else str(task.result), task.date_done


def _group(asked: list[Asked]) -> list[str]:
    return [str(task.id) for task in group(work.s(*one) for one in asked).apply_async().results]


WAYS = {"delay": lambda asked: [submit(*one) for one in asked], "group": _group}
