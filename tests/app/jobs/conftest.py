"""Two clients of the API. What they import needs Django's settings, which are there only when a test runs."""

from typing import Any

import pytest


@pytest.fixture
def api(user: Any) -> Any:
    from tests.app.jobs.client import Api

    return Api(user)


@pytest.fixture
def stranger(other_user: Any) -> Any:
    from tests.app.jobs.client import Api

    return Api(other_user)
