"""The kinds of all that an operator may write: variables of the inventory, inputs of the roles, an app profile.

Pydantic judges them; the inputs have their kinds in the roles' argument_specs.yml. Ansible reads these too, but role by
role, when others have changed their hosts already, and takes a text for a list of one.
"""

import difflib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from jinja2 import Undefined
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, create_model

ROLES = Path(__file__).resolve().parents[2] / "playbooks/roles"

Wrong = dict[str, str]
"""What is wrong, by the variable's name: the rest of a sentence that begins with where it was said."""


def _no_switch(value: object) -> object:
    """Pydantic would take true for 1."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def _one_line(value: object) -> object:
    if isinstance(value, str) and re.search(r"[\r\n]", value):
        raise ValueError("must be one line")
    return value


def _plain(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a text: put it into quotes")
    return _one_line(value)


def _address(value: object) -> object:
    try:
        ipaddress.ip_address(str(value))
    except ValueError:
        raise ValueError("must be an IP address") from None
    return value


def _network(value: object) -> object:
    try:
        ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError("must be a network, as in 192.0.2.0/24") from None
    return value


def _ports(value: object) -> object:
    ends = str(value).split("-")
    if len(ends) > 2 or not all(end.isdecimal() and 1 <= int(end) <= 65535 for end in ends):
        raise ValueError("must be a port from 1 to 65535, or a range as in 8000-8010")
    return value


Count = Annotated[int, BeforeValidator(_no_switch), Field(ge=1)]
Number = Annotated[int, BeforeValidator(_no_switch), Field(ge=0)]
Name = Annotated[str, StringConstraints(min_length=1)]
SiteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$|^\[[0-9a-fA-F:.]+\]$")]
Plain = Annotated[str | int | float, BeforeValidator(_plain)]
Setting = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Network = Annotated[Any, BeforeValidator(_network)]
Ports = Annotated[Any, BeforeValidator(_ports)]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Web(Form):
    workers: Count = 1
    threads: Count = 1
    push_workers: Count = 1


class Host(Form):
    """What the inventory says in variables that begin with headrace_; docs/deploy.md has a line on each."""

    headrace_address: Annotated[str, BeforeValidator(_address)] | None = None
    headrace_app: Name = "headrace"
    headrace_cores: Count | None = None
    headrace_environment: dict[Setting, Plain] | None = None
    headrace_generate_secrets: bool = False
    headrace_hostnames: Annotated[list[SiteName], Field(min_length=1)] | None = None
    headrace_lanes: list[Name] | None = None
    headrace_memory_mb: Count | None = None
    headrace_overrides: dict[Name, dict[Name, Count]] | None = None
    headrace_ref: Name = "HEAD"
    headrace_secrets: dict[Name, Annotated[str, BeforeValidator(_one_line)]] | None = None
    headrace_web: Web | None = None


class Source(Form):
    path: Name
    ref: Name
    include: Annotated[list[Name], Field(min_length=1)]
    version: Name
    workdir: Name
    requirements: Name


class Django(Form):
    manage: Annotated[list[Name], Field(min_length=1)]
    wsgi: Name
    asgi: str
    deploy_check: Literal["strict", "advisory", "skip"]
    static: str


ENVIRONMENT = {"plain", "build", "static_variable", "extra"}


class Database(Form):
    name: Name
    user: Name
    extensions: list[Name]


class Hooks(Form):
    before_migrate: list[list[Name]]
    migrate: list[Name]
    after_migrate: list[list[Name]]
    migrated: list[Name] = []


class Health(Form):
    path: Name
    status: Count


class Static(Form):
    url: Name
    folder: Name


class Pages(Form):
    worker_class: Name
    threads: Count
    memory_mb: Count
    timeout_s: Count
    max_body_mb: Count
    health: Health
    push: list[Name]
    denied: list[Name]
    sign_in: list[Name] = []
    admin: list[Name] = []
    static: list[Static]


class Service(Form):
    name: Name
    group: Literal["web"]
    title: Name
    command: Annotated[list[Name], Field(min_length=1)]
    notify: bool
    watchdog_s: Number = 0


class Lane(BaseModel):
    """The rest of a lane is deploy/sizing.py's to judge, or the application's own."""

    queues: dict[Name, Any] | list[Name]
    environment: dict[Setting, Plain] = {}
    visibility_timeout: Count | None = None


class Celery(Form):
    app: Name
    notify: bool
    watchdog: bool
    lanes: Annotated[dict[Name, Lane], Field(min_length=1)]
    lane_variable: str
    deny_variable: str = ""
    arguments: list[Name]


class Beat(Form):
    enabled: bool
    arguments: list[Name]
    redundant: bool = False
    watchdog: bool = False


class Profile(Form):
    """An app profile: deploy/apps/headrace.yml has a line on each key."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
    title: Name
    user: Name
    home: Name
    root: Name
    source: Source
    packages: dict[Name, list[Name]]
    django: Django
    secrets: list[Name] = []
    database: Database
    hooks: Hooks
    web: Pages
    services: list[Service]
    celery: Celery
    beat: Beat


SENSE: dict[str, Any] = {
    "base_ssh_networks": Annotated[list[Network], Field(min_length=1)],  # or nobody could sign in any more
    "from": list[Network],
    "nginx_admin_networks": list[Network],
    "nginx_trusted_proxies": list[Network],
    "keys": Annotated[list[Name], Field(min_length=1)],
    "ports": Annotated[list[Ports], Field(min_length=1)],
    "postgresql_settings": dict[Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_.]*$")], Plain | bool],
}
"""What some inputs of roles are, beyond their kind."""
KINDS: dict[str, Any] = {"bool": bool, "float": float, "int": Number, "path": Name, "str": Plain}


def _kind(name: str, option: Mapping[str, Any]) -> Any:
    """The type of an input, of its entry in argument_specs.yml."""
    if name in SENSE:
        return SENSE[name]
    if name.endswith("_port"):
        return Ports
    if option["type"] == "list":
        return list[_kind("", {**option, "type": option["elements"]})]  # type: ignore[misc]
    if option["type"] == "dict":
        return _form(option["options"]) if "options" in option else dict[str, Any]
    if "choices" in option:
        said = BeforeValidator(lambda value: "no" if value is False else value)  # as YAML reads a bare no
        return Annotated[Literal[tuple(option["choices"])], said]
    return KINDS[option["type"]]


def _form(options: Mapping[str, Any]) -> type[Form]:
    """A model of such entries; what is not said is not judged."""
    kinds = {name: (_kind(name, one), ... if one.get("required") else None) for name, one in options.items()}
    form: type[Form] = create_model("Inputs", __base__=Form, **kinds)  # type: ignore[call-overload]
    return form


@cache
def inputs() -> type[Form]:
    """Every input of every role, none of them required here."""
    options: dict[str, Any] = {}
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            options |= {name: {**one, "required": False} for name, one in entry["options"].items()}
    return _form(options)


class Known(Mapping[str, Any]):
    """The variables of a host that Ansible can fill in: a template may name what only a role knows."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.variables = variables

    def __getitem__(self, name: str) -> Any:
        try:
            return self.variables[name] if name == "ansible_facts" else _plain_copy(self.variables[name])
        except Exception as error:  # noqa: BLE001 - Ansible has many
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def wrong_variables(known: Known) -> Wrong:
    """What is wrong with what the inventory says of a host, as far as it is ours: headrace_... and inputs of roles.

    An input that names what a role knows is left to that role's own check.
    """
    roles = inputs().model_fields
    ours: dict[str, Any] = {}
    found: Wrong = {}
    for name in known:
        if name.startswith("headrace_"):
            try:
                ours[name] = known[name]
            except KeyError as error:
                found[name] = f"cannot be filled in: {error.args[0]}"
    found |= _judge(Host, ours)
    found |= _judge(inputs(), {name: known[name] for name in roles if known.get(name, known) is not known})
    return found | {name: _unknown(near) for name, near in _misspelt(known, roles)}


def _plain_copy(value: Any) -> Any:
    """Of Ansible's containers, which fill in templates when a value is asked for; pydantic looks beneath them."""
    if isinstance(value, Undefined):
        raise ValueError(value._undefined_message)
    if isinstance(value, Mapping):
        return {name: _plain_copy(value[name]) for name in value}
    return [_plain_copy(one) for one in value] if isinstance(value, list) else value


def _misspelt(variables: Iterable[str], known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that are no input, but nearly one."""
    roles = tuple(f"{path.name}_" for path in ROLES.iterdir())
    for name in variables:
        if name.startswith(roles) and name not in known and (near := difflib.get_close_matches(name, known, 1, 0.9)):
            yield name, near[0]


def wrong_profile(profile: Any) -> list[str]:
    """One sentence for each key of an app profile that is missing, unknown or of another kind."""
    judged = {name: _plain_copy(profile[name]) for name in profile if name != "environment"}  # which needs the secrets
    found = [f"In the app profile, {where} {what}." for where, what in _judge(Profile, judged).items()]
    has = set(profile.get("environment") or {})
    if not found and has != ENVIRONMENT:
        return [f"In the app profile, environment has {', '.join(has)}: it must have {', '.join(ENVIRONMENT)}."]
    return found


def _judge(model: type[BaseModel], values: Any) -> Wrong:
    found: Wrong = {}
    try:
        model.model_validate(values)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            found.setdefault(_where(one["loc"]), _what(one, model))
    return found


def _where(location: Iterable[str | int]) -> str:
    """The path to a value, without what pydantic adds to name a branch of a union."""
    steps = [str(step) for step in location if re.fullmatch(r"[\w.-]+", str(step))]
    while len(steps) > 1 and steps[-1] in {"str", "int", "float", "bool"}:
        steps.pop()
    return ".".join(steps) or "the whole of it"


def _what(error: Any, model: type[BaseModel]) -> str:
    value, kind, said = error["input"], error["type"], error.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][0]), list(model.model_fields), 1)
        return _unknown(near[0] if near and len(error["loc"]) == 1 else "")
    kinds = {
        "bool": "be true or false",
        "dict": "have names and values, as in {name: value}",
        "float": "be a number",
        "greater_than_equal": f"be {said.get('ge')} or more",
        "int": "be a whole number",
        "list": f"be a list, as in [{value if isinstance(value, str) else 'one, two'}]",
        "literal_error": f"be {said.get('expected')}",
        "model": "have names and values, as in {name: value}",
        "string": "be a text: put it into quotes",
        "string_pattern_mismatch": "be a name without blanks or other signs",
        "string_too_short": "not be empty",
        "too_short": "not be empty",
        "value_error": str(said.get("error", "")).removeprefix("must "),
    }
    must = kinds.get(kind) or kinds.get(kind.split("_")[0]) or f"be otherwise ({error['msg']})"
    hidden = any(word in str(error["loc"]) for word in ("environment", "password", "secret", "users"))
    return f"must {must}" if hidden else f"is {value!r}, which must {must}"


def _unknown(near: str) -> str:
    return "is unknown: " + (f"did you mean {near}?" if near else "remove it, or see docs/deploy.md for what there is")
