"""Every HEADRACE_* environment variable: its type, its default, and what it is for.

A variable that is unknown, missing or has an impossible value stops the process at start with one sentence.
`HEADRACE_X_FILE=/path` gives the value of `HEADRACE_X` from a file, for secrets that must not be in the environment.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from django.core.exceptions import ImproperlyConfigured
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

PREFIX = "HEADRACE_"
YEAR_S = 31_536_000
READ_ELSEWHERE = {
    "fetch_allow",
    "fetch_deny",
    "token",
}  # by kinds/net.py, which does not load Django; by the load tests


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaList = Annotated[list[str], BeforeValidator(_split)]


def _redis(url: object) -> object:
    """With TLS the certificate is checked unless the URL says otherwise: not every client of ours would by itself."""
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://")):
        raise ValueError(
            "it must begin with redis:// or rediss://, as in redis://user:password@host:6379/0; a socket is not enough "
            "for all that ask the broker"
        )
    if url.startswith("redis:"):
        return url
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    checked = query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")  # redis-py knows no CERT_REQUIRED
    if checked not in {"required", "optional", "none"}:
        raise ValueError("its ssl_cert_reqs must be required, optional or none")
    return parts._replace(query=urlencode({**query, "ssl_cert_reqs": checked})).geturl()


RedisUrl = Annotated[str, BeforeValidator(_redis)]


class Environment(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    # identity and secrets
    secret_key: str = Field(min_length=50)
    database_url: str = Field(pattern=r"^(postgres(ql)?|sqlite)://")
    broker_url: RedisUrl
    result_url: RedisUrl | None = None  # Celery's result backend, for tasks that are not jobs; default: the broker

    # the web tier
    allowed_hosts: CommaList = []
    trusted_origins: CommaList = []  # https://host[:port] that may post forms and open WebSockets, besides our own
    plain_http: bool = False  # without TLS: cookies without Secure, no HSTS. Only for the demo and for tests
    hsts_s: int = Field(
        300, ge=0
    )  # browsers use nothing but TLS for so long; 31536000 once you are sure (docs/deploy.md)
    hsts_subdomains: bool = False  # and so they do for every name below ours
    hsts_preload: bool = False  # and may have it built in, for good; needs a year and the subdomains
    debug: bool = False
    static_root: Path | None = None  # where collectstatic puts files for nginx
    database_pool: int = Field(0, ge=0)  # connections shared by one process's threads; 0: one per thread, kept open
    database_wait_s: float = Field(10, ge=0)  # a request waits this long for a database that is out of reach; then 503
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    lane_table: Path | None = None  # another lane table than config/lanes.yml; the same one on every host

    # limits
    max_body_bytes: int = Field(2_500_000, gt=0)
    max_result_bytes: int = Field(256_000, gt=0)
    max_artifact_bytes: int = Field(64_000_000, gt=0)
    max_open_jobs: int = Field(5000, gt=0)  # of one user; jobs of batches count, parts of a job do not
    max_scheduled_jobs: int = Field(1000, gt=0)  # of one user, of those: jobs whose run_after has not come
    max_stored_bytes: int = Field(10_000_000_000, gt=0)  # of one user: params, results and files of kept jobs
    max_followed: int = Field(1000, gt=0)  # WebSockets and event streams of one user, in each push process
    retention_days: float = Field(30, gt=0)  # finished jobs are deleted after this
    synthetic_kinds: bool = False  # offer the kinds burn and wait, for load tests and sizing

    # recovery, in seconds
    lease_s: float = Field(15, gt=0)
    renew_s: float = Field(5, gt=0)
    sweep_s: float = Field(1, gt=0)
    lost_after_s: float = Field(10, gt=0)  # a job whose message the broker has lost is published again after this
    retry_base_s: float = Field(2, ge=0)  # first backoff of a transient failure; doubles each time, with full jitter

    lane: str | None = None  # of this process, if it is a worker

    @field_validator("hsts_preload")
    @classmethod
    def _preload_needs_the_rest(cls, preload: bool, info: ValidationInfo) -> bool:
        if preload and not (info.data.get("hsts_s", 0) >= YEAR_S and info.data.get("hsts_subdomains")):
            raise ValueError(f"it needs {PREFIX}HSTS_S={YEAR_S} or more, and {PREFIX}HSTS_SUBDOMAINS=1")
        return preload


def _from_files(found: dict[str, str]) -> dict[str, str]:
    plain = {name: value for name, value in found.items() if not name.endswith("_file")}
    for name, path in found.items():
        if name.endswith("_file"):
            try:
                plain[name.removesuffix("_file")] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ImproperlyConfigured(f"{PREFIX}{name.upper()} cannot be read: {error}.") from error
    return plain


def _sentence(error: Any) -> str:
    name = PREFIX + str(error["loc"][0]).upper()
    if error["type"] == "missing":
        return f"{name} is not set; see app/config/environment.py for what it means."
    if error["type"] == "extra_forbidden":
        known = [PREFIX + field.upper() for field in Environment.model_fields]
        near = difflib.get_close_matches(name, known, 1)
        return f"{name} is not a setting of Headrace" + (f"; did you mean {near[0]}?" if near else "; unset it.")
    return f"{name} is wrong: {error['msg'].removeprefix('Value error, ')}."


def read(environ: Mapping[str, str]) -> Environment:
    """The settings of this process.

    Raises:
        ImproperlyConfigured: one sentence for each variable that is missing, unknown or wrong (values are not shown).
    """
    found = {name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    values = {name: value for name, value in _from_files(found).items() if name not in READ_ELSEWHERE}
    try:
        return Environment.model_validate(values)
    except ValidationError as error:
        raise ImproperlyConfigured(" ".join(_sentence(one) for one in error.errors(include_input=False))) from None
