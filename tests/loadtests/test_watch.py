"""What is asked of Redis and PostgreSQL; needs both."""

import os

import pytest

from config import lanes
from deploy.sizing import size_host
from deploy.worker import arguments
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


def test_a_worker_is_counted_with_its_lane():
    (plan, *_) = size_host(lanes.load().lanes, 2, 4096)
    command = " ".join(["celery", *arguments(plan, f"{plan.lane}-1", [plan.lane])])
    assert watch.group_of(command) == f"worker {plan.lane}"
    assert watch.group_of("gunicorn config.wsgi -n web") == "web"
    assert watch.group_of("bash") == ""
