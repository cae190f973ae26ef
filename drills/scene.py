"""Where drills happen: a deployment with its hosts, and a client of its own that submits and asks."""

import os
import ssl
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from drills import hosts
from drills.hosts import DrillError, Host
from harness.waiting import wait_until

Json = dict[str, Any]
OPEN = ("queued", "running")
WHOLE_S = 180
CALM_S = 3.0
AHEAD_S = 10
"""Clocks of the hosts agree with ours as well as this."""


@dataclass
class Scene:
    """One deployment."""

    inventory: str
    site: str
    token: str
    ca: Path | None
    hosts: dict[str, Host]
    broker_password: str
    kept: dict[str, Any] = field(default_factory=dict)
    """what a fault leaves for its heal and its check"""

    def __post_init__(self) -> None:
        trust = ssl.create_default_context(cafile=self.ca) if self.ca else True
        self._http = httpx2.Client(
            base_url=self.site, headers={"Authorization": f"Bearer {self.token}"}, verify=trust, timeout=10
        )
        self.units = {name: host.units() for name, host in self.hosts.items()}
        self.workers = self._workers()

    # hosts

    def of(self, group: str) -> list[Host]:
        """The hosts of a group, in order.

        Raises:
            DrillError: there are too few of them.
        """
        found = [host for _, host in sorted(self.hosts.items()) if group in host.groups]
        if not found:
            raise DrillError(f"The inventory has no host in the group {group}: this drill needs one.")
        return found

    def spare(self, group: str, lane: str = "") -> Host:
        """A host that may die, because another of its group does the same."""
        found = [host for host in self.of(group) if not lane or lane in host.lanes]
        if len(found) < 2:
            of = f"{group} of the lane {lane}" if lane else group
            raise DrillError(f"The drill kills a host of {of}, and the inventory has one: add another first.")
        return found[0]

    def at_work(self, hosts: Iterable[Host]) -> list[Host]:
        """The hosts, as soon as each runs a job: a fault that hits no job shows nothing."""
        wanted = {host.name: host for host in hosts}

        def busy() -> bool:
            running = self.ask("GET", "/api/jobs?limit=100&state=running")["items"]
            return set(wanted) <= {job["worker"].partition("@")[2] for job in running}

        wait_until(busy, 60, f"{', '.join(wanted)} run jobs")
        return list(wanted.values())

    def host_of(self, job: Json) -> Host:
        """Where a job runs."""
        return self.hosts[job["worker"].partition("@")[2]]

    def broker_says(self, command: str) -> str:
        """What Redis answers to its administrator."""
        script = f"export REDISCLI_AUTH='{self.broker_password}'\nredis-cli --no-auth-warning --user admin {command}"
        return self.of("broker")[0].sh(script)

    def django(self, code: str, seconds: float = 60) -> str:
        """What lines of Python say last on a web host, with the application loaded."""
        script = f"headrace-run python - <<'END'\nimport django; django.setup()\n{code}\nEND"
        return self.of("web")[0].sh(script, seconds).splitlines()[-1]

    def _workers(self) -> dict[str, set[str]]:
        return {lane["name"]: {worker["name"] for worker in lane["workers"]} for lane in self.lanes()}

    def missing(self) -> list[str]:
        """What is not as it was before the drills began."""
        gone = [
            f"{unit} on {name}" for name, host in self.hosts.items() for unit in sorted(self.units[name] - host.units())
        ]
        try:
            now = self._workers()
        except (httpx2.HTTPError, ValueError, KeyError):
            return [*gone, f"an answer of {self.site}"]
        return gone + [f"{name} in its lane" for lane, names in self.workers.items() for name in names - now[lane]]

    def until_whole(self) -> list[str]:
        """Wait until everything is as it was; what is still missing after WHOLE_S."""
        deadline = time.monotonic() + WHOLE_S
        while (missing := self.missing()) and time.monotonic() < deadline:
            time.sleep(1)
        return missing

    # a client

    def ask(self, method: str, path: str, body: Json | None = None) -> Any:
        """One request that must succeed."""
        answer = self._http.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json()

    def lanes(self) -> list[Json]:
        return list(self.ask("GET", "/api/lanes")["items"])

    def submit(self, kind: str, **params: Any) -> str:
        """The id of a new job."""
        return str(self.ask("POST", "/api/jobs", {"kind": kind, "params": params})["id"])

    def job(self, job_id: str) -> Json:
        return dict(self.ask("GET", f"/api/jobs/{job_id}"))

    def until(self, job_id: str, true: Callable[[Json], object], seconds: float, why: str) -> Json:
        """Wait until something is true of a job; the site may be away meanwhile."""
        seen: list[Json] = []

        def look() -> bool:
            try:
                seen.append(self.job(job_id))
            except httpx2.HTTPError:
                return False
            return bool(true(seen[-1]))

        wait_until(look, seconds, f"{why}: {seen[-1:]}")
        return seen[-1]

    def running(self, job_id: str, attempt: int = 1, seconds: float = 60) -> Json:
        """A job as soon as that attempt of it runs."""
        return self.until(
            job_id, lambda job: job["state"] == "running" and job["attempt"] == attempt, seconds, f"attempt {attempt}"
        )

    def ended(self, job_id: str, seconds: float = 90) -> Json:
        return self.until(job_id, lambda job: job["state"] not in OPEN, seconds, "the job ends")

    def done_since(self, moment: float) -> list[Json]:
        """Those of the newest hundred jobs that were made after a moment, and have succeeded."""
        jobs = self.ask("GET", f"/api/jobs?limit=100&state=succeeded&cursor={_id_at(time.time() + AHEAD_S)}")["items"]
        return [job for job in jobs if _epoch(job["created_at"]) >= moment]

    def calm(self) -> bool:
        """No job has been queued for long, and none has run for long."""
        try:
            waiting = [lane["oldest_queued_s"] or 0.0 for lane in self.lanes()]
            running = self.ask("GET", "/api/jobs?limit=100&state=running")["items"]
        except httpx2.HTTPError:
            return False
        since = [_epoch(job["started_at"]) for job in running if job["id"] not in self.kept.get("ours", ())]
        return max(waiting, default=0.0) < CALM_S and all(time.time() - moment < 2 * CALM_S for moment in since)


def _id_at(moment: float) -> uuid.UUID:
    """An id behind those of all jobs made before a moment, and before those of a host whose clock was ahead."""
    return uuid.UUID(int=int(moment * 1000) << 80)


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).astimezone(UTC).timestamp()


def local_token(found: dict[str, Host]) -> str:
    """A token of the local cluster's user, made on one of its web hosts."""
    web = next(host for host in found.values() if "web" in host.groups)
    return web.sh("headrace-manage create_api_token demo").split()[-1]


def enter(inventory: str, site: str = "", ca: str = "") -> Scene:
    """A deployment, from its inventory. Token and Redis password come from the environment, or are the local ones.

    Raises:
        DrillError: something is missing.
    """
    found = hosts.read(inventory)
    for host in found.values():
        if host.attempt("true").returncode != 0:
            raise DrillError(
                f"{host.name} does not answer over ssh at {host.address}: bring the hosts of {inventory} up first (the "
                "local cluster with `make cluster HEADRACE_CPU_WORKERS=2`)."
            )
    secrets = hosts.secrets_of(inventory)
    token = os.environ.get("HEADRACE_TOKEN") or (local_token(found) if secrets.is_dir() else "")
    if not token:
        raise DrillError(
            "HEADRACE_TOKEN is not set: make a token on a web host with `headrace-manage create_api_token USER` and "
            "export it here."
        )
    kept = secrets / "broker_admin_password"
    password = os.environ.get("HEADRACE_BROKER_ADMIN_PASSWORD") or (kept.read_text().strip() if kept.exists() else "")
    edge = next((host.address for host in found.values() if "edge" in host.groups), "")
    own = secrets / "edge.crt"
    certificate = Path(ca) if ca else (own if own.exists() else None)
    site = site or f"https://{edge}"
    if not urlsplit(site).hostname:
        raise DrillError("The inventory has no host in the group edge: say where the site is, with --site.")
    try:
        return Scene(inventory, site, token, certificate, found, password)
    except httpx2.HTTPError as error:
        raise DrillError(
            f"{site} does not answer as Headrace does ({error}): drills start from a fleet that works."
        ) from error
