"""A browser that is signed in."""

from typing import Any

import pytest
from django.test import Client


@pytest.fixture
def page(user: Any) -> Client:
    """A browser that is signed in."""
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture(autouse=True)
def fresh_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test need not wait until the lanes are asked for again."""
    monkeypatch.setattr("fleet.status.SEEN_FOR_S", 0)
