"""The work as a task of Django's tasks framework, for whichever backend the settings name."""

from typing import Any

from django.conf import settings
from django_tasks import TaskResultStatus, task

from benchmarks.baseline.work import Asked, Standing, run


@task(queue_name="cpu")  # type: ignore[untyped-decorator]
def work(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """Run one job; what it returns goes to its row."""
    return run(kind, params)


waiting = work.using(queue_name="io")


def submit(kind: str, params: dict[str, Any]) -> str:
    """A row, for a queue of its kind."""
    return str((waiting if kind == "wait" else work).enqueue(kind, params).id)


def look(task_id: str) -> Standing:
    """How a task stands, from its row."""
    found = work.get_result(task_id)
    if found.status == TaskResultStatus.SUCCESSFUL:
        return "SUCCESS", found.return_value, found.finished_at
    failed = found.status == TaskResultStatus.FAILED
    return ("FAILURE", found.errors[-1].traceback, found.finished_at) if failed else ("PENDING", None, None)


WAYS = {"enqueue": lambda asked: [submit(*one) for one in asked]}

if "django_ox" in settings.INSTALLED_APPS:
    from django_ox.bulk import enqueue_many

    def _many(asked: list[Asked]) -> list[str]:
        """Digests, all for one queue."""
        return [str(one.id) for one in enqueue_many(work, [(call, {}) for call in asked])]

    WAYS["enqueue_many"] = _many
