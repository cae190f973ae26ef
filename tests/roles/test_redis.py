"""The broker: who may sign in, what each may do, and what a restart keeps."""

import pytest

from tests.deploy.rehearsal import SECRETS
from tests.roles.conftest import Bare

PASSWORDS = {"headrace": SECRETS["broker_password"], "admin": SECRETS["broker_admin_password"]}


def cli(host: Bare, user: str, *command: str) -> str:
    """What Redis answers to a command of one who has signed in."""
    signed_in = f"REDISCLI_AUTH={PASSWORDS[user]} redis-cli -h {host.ip} --user {user}"
    return host.machine.run(f"{signed_in} {' '.join(command)} 2>&1").stdout.strip()


@pytest.mark.parametrize(
    ("options", "refusal"), [("", "NOAUTH"), ("--pass wrong", "WRONGPASS"), ("--user default --pass x", "WRONGPASS")]
)
def test_it_answers_only_with_a_password(host: Bare, options: str, refusal: str) -> None:
    said = host.machine.run(f"redis-cli -h {host.ip} {options} ping 2>&1").stdout
    assert refusal in said
    assert "PONG" not in said
    assert cli(host, "headrace", "ping") == "PONG"


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG GET dir", "SHUTDOWN", "KEYS x", "ACL LIST"])
def test_the_application_may_not_empty_stop_or_reconfigure_it(host: Bare, command: str) -> None:
    assert "NOPERM" in cli(host, "headrace", command)


def test_it_refuses_rather_than_evicts(host: Bare) -> None:
    found = cli(host, "admin", "CONFIG GET maxmemory-policy appendonly").split()
    assert dict(zip(found[::2], found[1::2], strict=True)) == {"maxmemory-policy": "noeviction", "appendonly": "yes"}


def test_a_restart_keeps_what_is_queued(host: Bare) -> None:
    host.machine.check_output(
        f"printf 'MULTI\\nLPUSH kept one\\nLPUSH kept two\\nEXEC\\n' | "
        f"REDISCLI_AUTH={PASSWORDS['headrace']} redis-cli -h {host.ip} --user headrace"
    )
    host.machine.check_output("systemctl restart redis-server")
    assert cli(host, "headrace", "LLEN kept") == "2"


def test_a_second_run_changes_nothing(host: Bare) -> None:
    assert host.apply() == 0
