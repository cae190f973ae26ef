"""What an operator may write is of its kind, or one sentence says what it must be."""

from typing import Any

import pytest

from deploy.fleet import schema
from tests.deploy.fleet.example import profile

LISTS = [name for name, field in schema.inputs().model_fields.items() if str(field.annotation).startswith("list")]


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("headrace_address", "web1", "an IP address"),
        ("headrace_cores", True, "a whole number"),
        ("headrace_cores", 0, "1 or more"),
        ("headrace_cores", "four", "a whole number"),
        ("headrace_environment", {"A B": "1"}, "without blanks"),
        ("headrace_generate_secrets", "perhaps", "true or false"),
        ("headrace_hostnames", [], "not be empty"),
        ("headrace_hostnames", ["https://jobs.example.com"], "without blanks or other signs"),
        ("headrace_overrides", {"cpu": 3}, "names and values"),
        ("headrace_secrets", "hunter2", "names and values"),
        ("headrace_web", {"wokers": 2}, "is unknown"),
        ("headrace_hostname", ["x"], "did you mean headrace_hostnames?"),
        ("base_admins", [{"name": "ada"}], "is missing"),
        ("base_firewall_extra", [{"name": "x", "ports": [70000]}], "a port from 1 to 65535"),
        ("base_firewall_extra", [{"name": "x", "ports": [1], "from": ["here"]}], "a network, as in 192.0.2.0/24"),
        ("base_firewall_extra", [{"name": "x", "ports": [1], "form_groups": ["web"]}], "is unknown"),
        ("base_hosts_file", "maybe", "true or false"),
        ("base_ssh_network", ["0.0.0.0/0"], "did you mean base_ssh_networks?"),
        ("base_ssh_networks", [], "not be empty"),
        ("base_ssh_root", "yes", "'prohibit-password' or 'no'"),
        ("fleet_web_port", "eighty", "a port"),
        ("nginx_max_body_mb", -1, "0 or more"),
        ("postgresql_settings", {"work mem": "1MB"}, "without blanks"),
        ("postgresql_settings", {"search_path": "a\nport = 1"}, "one line"),
        *((name, "one", "must be a list, as in [one]") for name in ["headrace_hostnames", "headrace_lanes", *LISTS]),
    ],
)
def test_a_value_of_another_kind_is_one_sentence(name: str, value: Any, what: str) -> None:
    ((found, said),) = schema.wrong_variables(schema.Known({name: value, "mine": 1})).items()
    assert found.partition(".")[0] == name
    assert what in said


@pytest.mark.parametrize(
    "variables",
    [
        {"headrace_secrets": {"secret_key": ["hunter2"]}},
        {"headrace_environment": {"EMAIL_PASSWORD": "hunter2\n"}},
        {"redis_users": [{"name": "x", "password": {"hunter2": 1}, "may": "~*"}]},
    ],
)
def test_what_may_be_secret_is_not_shown(variables: Any) -> None:
    ((_, said),) = schema.wrong_variables(schema.Known(variables)).items()
    assert "hunter2" not in said


def test_what_ansible_would_take_is_taken() -> None:
    said_with_e = {"headrace_cores": "2", "base_hosts_file": "false", "fleet_web_port": "8000", "headrace_ref": "v1"}
    rules = [{"name": "x", "ports": ["9100", 22, "8000-8010"], "from": ["192.0.2.7", "2001:db8::/64"]}]
    settings = {"work_mem": "32MB", "max_worker_processes": 8, "jit": False}
    given = {"base_ssh_root": False, "base_firewall_extra": rules, "postgresql_settings": settings}
    site = {"headrace_hostnames": ["jobs.example.com", "192.0.2.1", "[2001:db8::1]"], "headrace_address": "2001:db8::1"}
    assert schema.wrong_variables(schema.Known({**said_with_e, **given, **site})) == {}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda one: one.pop("hooks"), "In the app profile, hooks is missing."),
        (lambda one: one["celery"].update(lanes=["cpu"]), "celery.lanes is ['cpu'], which must have names and values"),
        (lambda one: one["web"].update(threads="many"), "web.threads is 'many', which must be a whole number"),
        (lambda one: one["environment"].pop("plain"), "environment has "),
        (lambda one: one.update(nmae="x"), "did you mean name?"),
        (lambda one: one["services"][0].update(group="db"), "services.0.group is 'db', which must be 'web'"),
    ],
)
def test_a_mistake_in_an_app_profile_is_one_sentence(spoil: Any, sentence: str) -> None:
    one = profile()
    assert schema.wrong_profile(one) == []
    spoil(one)
    (said,) = schema.wrong_profile(one)
    assert sentence in said
