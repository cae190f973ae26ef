"""What a request costs a web process that has served others before: statements to PostgreSQL, commands to Redis."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import close_old_connections, connection

from jobs import backpressure, tokens
from jobs.models import ApiToken, Job
from tests.app.jobs.client import Api, problem
from tests.app.wire import statements

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite is on no wire")


@pytest.fixture
def warm(api: Api, empty_broker: Any, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A client whom this process knows; what it has seen it takes for true, however long a test takes."""
    tokens.forget()
    for name in (
        "config.postgresql.base.TRUSTED_FOR_S",
        "jobs.tokens.KNOWN_FOR_S",
        "jobs.submit.BACKLOG_SEEN_FOR_S",
        "jobs.room.SEEN_FOR_S",
        "jobs.backpressure.SEEN_FOR_S",
    ):
        monkeypatch.setattr(name, 600.0)
    backpressure.GATE.look()
    assert api.submit().status_code == 202
    return api


def cost(request: Callable[[], Any]) -> int:
    """Statements that one request sends, from the question whether its connection is well to the last COMMIT."""
    with statements() as sent:
        close_old_connections()
        assert request().status_code < 300
        close_old_connections()
    return len(sent)


@on_postgresql
def test_statements_of_one_submit(warm: Api) -> None:
    assert cost(warm.submit) == 1
    assert cost(lambda: warm.submit(idempotency_key="k")) <= 5  # BEGIN, is the key known, is there room, INSERT, COMMIT
    assert cost(lambda: warm.post("/jobs/batch", {"jobs": [{"kind": "digest"}] * 100})) <= 4
    assert Job.objects.count() == 103


def test_commands_of_one_submit(warm: Api, broker: Any) -> None:
    client = redis.Redis.from_url(broker.url)
    client.config_resetstat()
    assert warm.submit().status_code == 202
    calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in client.info("commandstats").items()}
    ours = {name: count for name, count in calls.items() if name not in ("config|resetstat", "info", "client|setinfo")}
    assert ours == {"lpush": 1, "publish": 1}


# ---- what is known is forgotten in time -----------------------------------------------------------------------------


def test_a_wrong_token_is_asked_for_each_time_and_takes_no_memory(warm: Api) -> None:
    warm.token = "hr_" + "0" * 43
    before = len(tokens._known)
    problem(warm.get("/jobs"), 401)
    assert len(tokens._known) == before
    ApiToken.objects.create(user=warm.user, sha256=tokens._hash(warm.token))
    assert warm.get("/jobs").status_code == 200


def test_known_tokens_are_so_many_at_most(warm: Api, other_user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_KNOWN", 3)
    tokens.forget()
    for _ in range(10):
        assert tokens.user_of(tokens.create_token(other_user)) == other_user
        assert len(tokens._known) <= 3


@pytest.mark.parametrize("how", ["token deleted", "user disabled", "user deleted"])
def test_revoking_is_known_at_once_here_and_announced(warm: Api, broker: Any, how: str) -> None:
    with redis.Redis.from_url(broker.url).pubsub() as announced:
        announced.subscribe(tokens.CHANNEL)
        announced.get_message(timeout=5)
        user_id = warm.user.pk
        if how == "token deleted":
            ApiToken.objects.get().delete()
        elif how == "user disabled":
            warm.user.is_active = False
            warm.user.save()
        else:
            warm.user.delete()
        problem(warm.submit(), 401)
        message = announced.get_message(timeout=5)
    assert message
    assert int(message["data"]) == user_id


@pytest.mark.parametrize("how", ["token deleted", "user disabled"])
def test_what_was_revoked_elsewhere_is_known_for_seconds_only(
    warm: Api, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with connection.cursor() as cursor:  # without a signal, as in another process
        cursor.execute(
            "DELETE FROM jobs_apitoken" if how == "token deleted" else "UPDATE auth_user SET is_active = false"
        )
    assert warm.get("/jobs").status_code == 200
    [(sha256, (until, found))] = tokens._known.items()
    tokens._known[sha256] = (until - tokens.KNOWN_FOR_S, found)  # that much later
    problem(warm.get("/jobs"), 401)


def test_a_user_who_was_deleted_elsewhere_is_nobody(warm: Api) -> None:
    Job.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM jobs_apitoken")
        cursor.execute("DELETE FROM auth_user")
    problem(warm.submit(), 401)
    assert not User.objects.exists()
    problem(warm.get("/jobs"), 401)
