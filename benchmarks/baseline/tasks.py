"""The same work as ours, called by a task with nothing around it."""

from typing import Any

from benchmarks.baseline.celery import app
from kinds import burn, digest, wait
from kinds.base import Outcome

KINDS = {kind.name: kind for kind in (burn.KIND, digest.KIND, wait.KIND)}


def _silent(share: float, note: str = "") -> None:
    """Nobody asks how far it is."""


@app.task  # type: ignore[untyped-decorator]
def work(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """Run one job; what it returns goes to the result backend."""
    outcome = KINDS[kind].run(KINDS[kind].params.model_validate(params), _silent)
    assert isinstance(outcome, Outcome)  # noqa: S101  (none of the three splits itself)
    return outcome.result
