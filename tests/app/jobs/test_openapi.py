"""The OpenAPI document against the running application, by schemathesis: no server error, and nothing undeclared."""

import uuid
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection

from config.wsgi import application
from jobs import services
from jobs.submit import Submission, submit
from jobs.tokens import create_token
from kinds.base import Artifact

pytestmark = pytest.mark.django_db(transaction=True)  # requests close connections that are in a transaction
options: dict[str, Any] = {"derandomize": True, "deadline": None, "database": None}
options["suppress_health_check"] = list(HealthCheck)
# A schema cannot say everything: work that is too large, addresses that are refused, times out of reach.
VALID_BY_SCHEMA = ["2xx", "304", "401", "403", "404", "409", "421", "422", "429", "503"]
CONFIG = SchemathesisConfig.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": VALID_BY_SCHEMA}}})
schema = schemathesis.openapi.from_wsgi("/api/openapi.json", application, config=CONFIG)


@pytest.fixture
def token(user: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {create_token(user)}"}


@pytest.fixture
def jobs(user: Any) -> list[uuid.UUID]:
    """A job in each state that answers differently."""
    found = [job.pk for job, _ in submit(user.pk, [Submission("digest", {}) for _ in range(4)])]
    _, running, succeeded, failed = found
    services.claim(running, "quick-1@host", "solo")
    for job_id, end in ((succeeded, services.succeed), (failed, services.fail)):
        claim = services.claim(job_id, "quick-1@host", "solo")
        assert claim
        end(claim, *([{}, Artifact(b"x", "text/plain", "x.txt")] if end is services.succeed else ["No."]))  # type: ignore[operator]
    return found


@schema.parametrize()
@settings(max_examples=25, **options)
def test_document_holds(case: Any, token: dict[str, str]) -> None:
    case.call_and_validate(headers=token)


@schema.include(path_regex="job_id").parametrize()
@settings(max_examples=8, **options)
def test_document_holds_for_jobs_that_exist(case: Any, token: dict[str, str], jobs: list[uuid.UUID]) -> None:
    for job_id in jobs:
        case.path_parameters["job_id"] = str(job_id)
        case.call_and_validate(headers=token, excluded_checks=[negative_data_rejection])  # its id was put right
