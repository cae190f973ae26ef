"""The roles' form: inputs with a name, a line of why and a kind; the same verbs; nobody's application inside."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.fleet import schema
from harness import ROOT
from tests.deploy.rehearsal import SECRETS, inventory, rehearse

PLAYBOOKS = ROOT / "playbooks"
ROLES = sorted(path for path in (PLAYBOOKS / "roles").iterdir() if path.is_dir())
BY_THE_APP = {"web", "celery_worker", "celery_beat"}  # the role app installs what they run
VERBS = {
    "fleet": [],  # makes nothing of a host: playbooks/preflight.yml asks it what is there, and refuses
    "python_env": ["install"],  # included by app and loadgen, which configure and run what is in it
}
NO_COMMENTS = {"users.acl.j2"}  # Redis reads no comment in it
OURS = re.compile(r"config\.settings|\bjobs\.[a-z_]|\bkinds\b|manage\.py|HEADRACE_LANE")

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def defaults(role: Path) -> str:
    return (role / "defaults/main.yml").read_text()


def inputs(role: Path) -> list[str]:
    """With a default, or commented out because there is none that makes sense."""
    return re.findall(r"^(?:# )?([a-z_]+):(?: |$)", defaults(role), re.MULTILINE)


def without_default(role: Path) -> set[str]:
    return set(re.findall(r"^# ([a-z_]+):$", defaults(role), re.MULTILINE))


def options(role: Path) -> dict[str, Any]:
    (entry,) = load(role / "meta/argument_specs.yml")["argument_specs"].values()
    return entry["options"]


def verbs(role: Path) -> list[str]:
    verbs = ["preflight", "install", "configure", "run"]
    without = {"install" if role.name in BY_THE_APP else "preflight"} - {"preflight" if role.name == "loadgen" else ""}
    return VERBS.get(role.name, [verb for verb in verbs if verb not in without])


def files(*patterns: str) -> list[Path]:
    """Of the roles and playbooks, in order."""
    return sorted(path for pattern in patterns for path in PLAYBOOKS.rglob(pattern) if path.is_file())


def test_there_are_roles() -> None:
    assert {"app", "base", "celery_beat", "celery_worker", "fleet", "nginx", "postgresql", "redis", "web"} <= {
        role.name for role in ROLES
    }


@each_role
def test_every_input_is_in_the_defaults_and_in_the_specification(role: Path) -> None:
    assert inputs(role) == list(options(role))


@each_role
def test_every_input_is_in_the_file_as_ansible_reads_it(role: Path) -> None:
    assert set(inputs(role)) - without_default(role) == set(load(role / "defaults/main.yml"))


@each_role
def test_every_input_begins_with_the_roles_name(role: Path) -> None:
    assert [name for name in inputs(role) if not name.startswith(f"{role.name}_")] == []


@each_role
def test_inputs_without_default_are_required_and_no_others(role: Path) -> None:
    assert {name for name, option in options(role).items() if option.get("required")} == without_default(role)


@each_role
def test_every_input_has_its_kind_and_a_line_on_what_it_is(role: Path) -> None:
    for name, option in options(role).items():
        assert option["type"] != "list" or "elements" in option, name
        assert option["description"].endswith("."), name
        assert "default" not in option, f"{name}: the default has one home, defaults/main.yml"


@each_role
def test_every_default_is_under_a_line_of_why(role: Path) -> None:
    paragraphs = re.split(r"\n\n+", defaults(role).strip())
    assert [text for text in paragraphs if not text.startswith("# ")] == []


@each_role
def test_every_role_has_the_same_verbs_in_the_same_order(role: Path) -> None:
    tasks = load(role / "tasks/main.yml") if verbs(role) else []
    assert [task["ansible.builtin.import_tasks"] for task in tasks] == [f"{verb}.yml" for verb in verbs(role)]
    assert [verb for verb in verbs(role) if not (role / f"tasks/{verb}.yml").is_file()] == []


@each_role
def test_every_role_has_a_page_with_its_command_and_real_inputs(role: Path) -> None:
    page = (role / "README.md").read_text()
    assert page.startswith(f"# {role.name}\n")
    assert len(page.splitlines()) <= 22
    runs = {"fleet": "plan.yml", "loadgen": "loadtest.yml", "python_env": "site.yml --tags app"}
    tag = runs.get(role.name, f"site.yml --tags {role.name}")
    assert f"ansible-playbook -i deploy/inventories/YOURS playbooks/{tag}`" in page
    named = set(re.findall(rf"`({role.name}_[a-z_]+)`", page))
    assert named <= set(inputs(role)) | {"fleet_host"}
    asked = {name for name in re.findall(r"`(headrace_[a-z_]+)`", page) if not knows(name)}
    assert asked == set()


def knows(variable: str) -> bool:
    """Whether the playbooks read a variable of the inventory."""
    ours = [ROOT / "deploy/apps/headrace.yml", *(ROOT / "deploy/fleet").glob("*.py")]
    return any(variable in path.read_text() for path in [*files("*.yml", "*.py"), *ours])


@each_role
def test_every_role_of_a_play_depends_on_fleet(role: Path) -> None:
    if role.name not in VERBS:
        assert load(role / "meta/main.yml")["dependencies"] == ["fleet"]


@pytest.mark.parametrize("path", files("roles/*/templates/**/*.j2"), ids=lambda path: path.name)
def test_every_template_says_first_who_writes_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert re.match(r"\{\{ ansible_managed \| comment(\('c'\))? \}\}$", first) or path.name in NO_COMMENTS


@pytest.mark.parametrize("path", files("roles/*/files/**/*"), ids=lambda path: path.name)
def test_every_file_says_first_who_writes_it(path: Path) -> None:
    assert path.read_text().startswith("# Ansible managed\n")


def test_no_role_and_no_playbook_names_our_application() -> None:
    named = []
    for path in [*files("*.yml", "*.j2", "*.py"), *files("roles/*/files/**/*")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.lstrip().startswith("#") and OURS.search(line):
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert named == []


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from strings(item)


@pytest.mark.parametrize("path", files("*.yml"), ids=lambda path: str(path.relative_to(PLAYBOOKS)))
def test_a_group_of_a_regular_expression_is_not_a_backslash_and_a_digit(path: Path) -> None:
    r"""Ansible doubles backslashes itself: in a block, where YAML takes none away, a group is \1, not \\1."""
    assert [text for text in strings(load(path)) if re.search(r"\\\\\d", text)] == []


@pytest.mark.servers
def test_ansible_accepts_every_default_on_every_host(tmp_path: Path) -> None:
    said = [rehearse(tmp_path, playbook, inventory()) for playbook in ("site.yml", "loadtest.yml")]
    assert [one for one in said if not one.startswith("0\n")] == []
    # python_env is included when there is something to build; the preflight judges what fleet is given
    for role in [role for role in ROLES if role.name not in VERBS]:
        assert f"TASK [{role.name} : Validating arguments against arg spec 'main'" in "".join(said)


@pytest.mark.parametrize(("role", "last"), [("app", "install"), ("loadgen", "build")])
def test_what_is_built_may_be_read_whatever_roots_umask_and_is_built_again_for_another_debian(
    role: str, last: str
) -> None:
    commands = [task.get("ansible.builtin.command") for task in load(PLAYBOOKS / f"roles/{role}/tasks/build.yml")]
    assert len([said for said in commands if isinstance(said, str) and said.startswith("chmod -R u=rwX,go=rX ")]) == 1
    mark = load(PLAYBOOKS / f"roles/{role}/vars/main.yml")[f"{role}_built_file"]
    marked = load(PLAYBOOKS / f"roles/{role}/tasks/{last}.yml")[-1]
    assert marked["ansible.builtin.copy"]["dest"] == f"{{{{ {role}_built_file }}}}"
    assert "ansible_facts.distribution_release" in mark


def tasks(path: Path) -> list[dict[str, Any]]:
    found = load(path) or []
    return [inner for task in found for inner in (task.get("block", [task]) if isinstance(task, dict) else [])]


def test_apt_is_asked_only_where_a_package_is_missing() -> None:
    asked = [task for path in files("roles/*/tasks/*.yml") for task in tasks(path) if "ansible.builtin.apt" in task]
    assert len(asked) >= 7
    assert [task["name"] for task in asked if "is not subset(fleet_packages)" not in task.get("when", "")] == []


def test_systemd_reads_its_units_once_for_a_task_not_once_for_each_unit() -> None:
    looped = [task for path in files("roles/*/tasks/*.yml") for task in tasks(path) if "loop" in task]
    reloads = [task["ansible.builtin.systemd_service"].get("daemon_reload") for task in looped
               if "ansible.builtin.systemd_service" in task]  # fmt: skip
    assert len(reloads) >= 2
    assert True not in reloads


def test_preflight_knows_every_input_of_every_role() -> None:
    assert {name for role in ROLES for name in options(role)} == set(schema.inputs().model_fields)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("playbook", "args", "given", "made"),
    [
        ("plan.yml", (), {}, False),
        ("site.yml", ("--check",), {}, False),
        ("site.yml", ("--check",), {"headrace_secrets": SECRETS}, False),
        ("site.yml", (), {"headrace_secrets": SECRETS}, False),
        ("site.yml", (), {}, True),
    ],
)
def test_secrets_are_made_only_where_none_are_given_and_something_needs_them(
    playbook: str, args: tuple[str, ...], given: dict[str, Any], made: bool, tmp_path: Path
) -> None:
    hosts, folder = inventory(), tmp_path / "secrets"
    hosts["all"]["vars"] = {"headrace_generate_secrets": True, "fleet_secrets_folder": str(folder), **given}
    said = rehearse(tmp_path, playbook, hosts, *args)
    assert said.startswith("0\n"), said
    assert folder.exists() is made


@pytest.mark.servers
def test_what_only_a_role_can_compute_is_refused_by_the_role(tmp_path: Path) -> None:
    wrong = {"base_firewall_extra": [{"name": "x", "ports": ["{{ fleet_web_port }}"], "form_groups": ["web"]}]}
    said = rehearse(tmp_path, "site.yml", inventory(), "-e", json.dumps(wrong))
    assert said.startswith("2\n"), said
    assert "base_firewall_extra.form_groups" in said
