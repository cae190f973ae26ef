import pytest

from tests.deploy.fleet.example import Fleet


@pytest.fixture
def good() -> Fleet:
    """An inventory that can work."""
    return Fleet()
