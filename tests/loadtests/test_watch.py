"""What is asked of Redis and PostgreSQL; needs both."""

import os

import pytest

from loadtests import watch


@pytest.mark.servers
def test_redis_and_postgresql_are_counted_where_their_addresses_are_known():
    found = watch.Stores(os.environ)
    found.look()
    found.look()
    assert found.samples[-1].redis.rate > 0
    known = os.environ["HEADRACE_DATABASE_URL"].startswith("postgres")
    assert (found.samples[-1].postgresql is not None) == known


def test_stores_that_are_unknown_or_away_are_named():
    away = watch.Stores({"HEADRACE_BROKER_URL": "redis://127.0.0.1:1/0"})
    away.look()
    assert "refused" in away.missing["redis"]
    assert away.missing["postgresql"] == "HEADRACE_DATABASE_URL does not say where it is"
    assert away.samples == []
