"""The database: only its own role, only with TLS, only with scram-sha-256, and only in its own schema."""

import pytest

from tests.deploy.rehearsal import SECRETS
from tests.roles.conftest import Bare


def ask(host: Bare, statement: str, **changes: str) -> str:
    """What PostgreSQL answers over the network; changes are of the connection."""
    given = {"host": host.ip, "user": "headrace", "dbname": "headrace", "sslmode": "require"}
    given |= {"password": SECRETS["database_password"], "require_auth": "scram-sha-256"} | changes
    words = " ".join(f"{name}={value}" for name, value in given.items())
    return host.machine.run(f'psql "{words}" -Atc "{statement}" 2>&1').stdout.strip()


def test_its_role_signs_in_with_scram_and_tls(host: Bare) -> None:
    assert ask(host, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"require_auth": "md5"}, "authentication method requirement"),
        ({"sslmode": "disable"}, "no pg_hba.conf entry"),
        ({"user": "postgres"}, "no pg_hba.conf entry"),
        ({"dbname": "postgres"}, "no pg_hba.conf entry"),
    ],
)
def test_it_refuses_everything_else(host: Bare, changes: dict[str, str], refusal: str) -> None:
    assert refusal in ask(host, "SELECT 1", **changes)


def test_passwords_are_kept_as_scram(host: Bare) -> None:
    stored = "SELECT rolname FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-SHA-256%'"
    assert host.machine.check_output(f'cd / && runuser -u postgres -- psql -Atc "{stored}"') == ""


@pytest.mark.parametrize("statement", ["CREATE TABLE public.mine ()", "CREATE SCHEMA mine", "CREATE DATABASE mine"])
def test_the_role_owns_its_schema_and_nothing_else(host: Bare, statement: str) -> None:
    assert ask(host, "CREATE TABLE mine (); DROP TABLE mine").endswith("DROP TABLE")
    assert "permission denied" in ask(host, statement)


def test_a_second_run_changes_nothing(host: Bare) -> None:
    assert host.apply() == 0


def test_a_setting_may_have_quotes_and_a_wrong_one_is_refused_while_the_server_goes_on(host: Bare) -> None:
    host.apply(postgresql_settings={"log_line_prefix": "it's %m "})
    assert ask(host, "SHOW log_line_prefix") == "it's %m"
    with pytest.raises(AssertionError, match="invalid value for parameter"):
        host.apply(postgresql_settings={"work_mem": "32XB"})
    assert ask(host, "SHOW log_line_prefix") == "it's %m"
    host.apply()
    assert host.apply() == 0
