"""Every transition of the ledger, and every illegal one, against a model that is small enough to be believed."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db.models.functions import Now
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs import services
from jobs.models import Job
from jobs.services import Claim
from jobs.submit import Submission, submit
from kinds.base import Part

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.ledger]

TERMINAL = {"succeeded", "failed", "cancelled"}
MOST = 3


@dataclass
class Expected:
    """What the model believes of one job."""

    state: str = "queued"
    attempt: int = 0
    allowed: int = MOST
    cancel: bool = False
    open_parts: int = 0
    joining: bool = False
    parent: Any = None
    parts: list[Any] = field(default_factory=list)


class Ledger(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[Any, Expected] = {}
        self.versions: dict[Any, int] = {}

    @initialize(target=jobs, count=st.integers(1, 2))
    def submit(self, count: int) -> Any:
        Job.objects.all().delete()
        owner = get_user_model().objects.get_or_create(username="machine")[0].pk
        made = [job.pk for job, _ in submit(owner, [Submission("digest", {})] * count)]
        self.model = {job_id: Expected() for job_id in made}
        return multiple(*made)

    @rule(target=claims, job_id=jobs)
    def claim(self, job_id: Any) -> Any:
        return self._claim(job_id)

    @rule(target=claims, job_id=jobs, which=st.integers(0, 1))
    def claim_part(self, job_id: Any, which: int) -> Any:
        parts = self.model[job_id].parts
        return self._claim(parts[which]) if parts else multiple()

    def _claim(self, job_id: Any) -> Any:
        expected = self.model[job_id]
        claim = services.claim(job_id, "w@h", "threads")
        assert (claim is not None) == (expected.state == "queued")
        if claim is not None:
            expected.state, expected.attempt = "running", expected.attempt + 1
            assert (claim.attempt, claim.joining) == (expected.attempt, expected.joining)
        return multiple() if claim is None else claim

    def _holds(self, claim: Claim) -> bool:
        expected = self.model[claim.id]
        return expected.state == "running" and expected.attempt == claim.attempt and not expected.open_parts

    def _ended(self, job_id: Any, state: str) -> None:
        expected = self.model[job_id]
        expected.state = state
        if expected.parent is None:
            return
        parent = self.model[expected.parent]
        parent.open_parts -= 1
        if parent.state == "running" and not parent.open_parts:
            parent.state, parent.joining, parent.allowed = "queued", True, parent.attempt + MOST

    @rule(claim=claims, how=st.sampled_from(["succeed", "fail"]))
    def finish(self, claim: Claim, how: str) -> None:
        holds = self._holds(claim)
        kept = services.succeed(claim, {"n": 1}) if how == "succeed" else services.fail(claim, "No.")
        assert kept == holds
        if holds:
            done = {"succeed": "succeeded", "fail": "failed"}[how]
            self._ended(claim.id, "cancelled" if self.model[claim.id].cancel else done)

    @rule(claim=claims)
    def stop(self, claim: Claim) -> None:
        may = self._holds(claim) and self.model[claim.id].cancel
        assert services.stopped(claim) == may
        if may:
            self._ended(claim.id, "cancelled")

    @rule(claim=claims)
    def report(self, claim: Claim) -> None:
        assert services.report(claim, 0.5, "half") == (self._holds(claim) and not self.model[claim.id].cancel)

    @rule(claim=claims)
    def retry(self, claim: Claim) -> None:
        holds, expected = self._holds(claim), self.model[claim.id]
        assert services.retry(claim, "The line was busy.") == holds
        if not holds:
            return
        if expected.cancel:
            self._ended(claim.id, "cancelled")
        elif expected.attempt >= expected.allowed:
            self._ended(claim.id, "failed")
        else:
            expected.state = "queued"
            Job.objects.filter(pk=claim.id).update(run_after=None)  # its backoff passes

    @rule(claim=claims)
    def split(self, claim: Claim) -> None:
        if self.model[claim.id].parent or self.model[claim.id].joining:
            return
        may = self._holds(claim) and not self.model[claim.id].cancel
        assert services.split(claim, [Part("digest", {})] * 2) == may
        if may:
            parts = list(Job.objects.filter(parent_id=claim.id).order_by("part").values_list("pk", flat=True))
            self.model[claim.id].open_parts, self.model[claim.id].parts = 2, parts
            self.model |= {part: Expected(parent=claim.id) for part in parts}

    @rule(target=claims, job_id=jobs)
    def claim_and_split(self, job_id: Any) -> Any:
        claim = self._claim(job_id)
        if isinstance(claim, Claim):
            self.split(claim)
        return claim

    @rule(job_id=jobs, how=st.sampled_from(["succeed", "fail"]))
    def all_parts_end(self, job_id: Any, how: str) -> None:
        for part in self.model[job_id].parts:
            claim = self._claim(part)
            if isinstance(claim, Claim):
                self.finish(claim, how)

    @rule(target=claims, job_id=jobs)
    def claim_and_die(self, job_id: Any) -> Any:
        claim = self._claim(job_id)
        self.worker_dies(job_id)
        return claim

    @rule(job_id=jobs)
    def worker_dies(self, job_id: Any) -> None:
        expected = self.model[job_id]
        Job.objects.filter(pk=job_id, lease_until__isnull=False).update(lease_until=Now() - timedelta(seconds=1))
        lost = [job for job in services.expired_leases(10) if job.pk == job_id]
        assert len(lost) == (expected.state == "running" and not expected.open_parts)
        for job in lost:
            assert services.lose(job, "it was unplugged")
            if expected.cancel:
                self._ended(job_id, "cancelled")
            elif expected.attempt >= expected.allowed:
                self._ended(job_id, "failed")
            else:
                expected.state = "queued"

    @rule(job_id=jobs)
    def cancel(self, job_id: Any) -> None:
        self._cancel(job_id)
        services.cancel(job_id)

    @rule(job_id=jobs, which=st.integers(0, 1))
    def cancel_part(self, job_id: Any, which: int) -> None:
        if parts := self.model[job_id].parts:
            self._cancel(parts[which])
            services.cancel(parts[which])

    def _cancel(self, job_id: Any) -> None:
        expected = self.model[job_id]
        if expected.state == "running" and not expected.open_parts:
            expected.cancel = True
        elif expected.state not in TERMINAL:
            expected.cancel = True
            self._ended(job_id, "cancelled")
            for part in expected.parts:
                self._cancel(part)

    @invariant()
    def ledger_is_the_model(self) -> None:
        for job in Job.objects.all():
            expected = self.model[job.pk]
            assert (job.state, job.attempt, job.open_parts, job.joining) == (
                expected.state,
                expected.attempt,
                expected.open_parts,
                expected.joining,
            )
            assert (job.finished_at is not None) == (job.state in TERMINAL)
            assert (job.lease_until is not None) == (job.state == "running" and not job.open_parts)
            assert (job.result is not None) == (job.state == "succeeded")
            assert bool(job.error) == (job.state == "failed")
            assert job.version >= self.versions.get(job.pk, 0)
            self.versions[job.pk] = job.version


def test_ledger_follows_its_model(empty_broker: Any) -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # each step is real SQL: shrinking would take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
