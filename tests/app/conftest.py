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
