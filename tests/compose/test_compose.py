"""docker-compose.yml for real: built, started, used, scaled, broken and thrown away.

The order matters: one pipeline serves all tests, and the last one takes it down.
"""

import asyncio
import os
import re
import shutil
import stat
from collections.abc import Iterator

import httpx2
import pytest
from rich.console import Console

from demo.client import Client
from harness.waiting import wait_until
from tests.compose.pipeline import (
    ALWAYS,
    PROJECT,
    SECRETS,
    SITE,
    WORKERS,
    Pipeline,
    copy_of_secrets,
    leftovers,
    missing,
    planned,
)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    if why := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    one = Pipeline()
    try:
        done = one.make_compose()
        assert done.returncode == 0, done.stdout + done.stderr + one.logs()
        one.welcome = done.stdout
        yield one
    finally:
        one.compose("down", "--volumes", "--timeout", "5", check=False)
        shutil.rmtree(SECRETS, ignore_errors=True)


# That it works


def test_make_compose_says_where_it_is_and_who_may_sign_in(pipeline):
    assert f"Headrace runs at {pipeline.address}/" in pipeline.welcome
    password = re.search(r"sign in +headrace / (\S+)", pipeline.welcome)[1]
    with httpx2.Client(base_url=pipeline.address, follow_redirects=True, trust_env=False) as browser:
        browser.get("/login/")
        form = {"username": "headrace", "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        page = browser.post("/login/", data=form, headers={"Origin": pipeline.address})
        style = browser.get(re.search(r'href="(/static/[^"]+\.css)"', page.text)[1])
    assert page.status_code == 200
    assert "Sign out" in page.text
    assert style.headers["content-type"] == "text/css"


def test_every_service_is_healthy_and_migrate_has_ended_well(pipeline):
    state = {one["Config"]["Labels"]["com.docker.compose.service"]: one["State"] for one in pipeline.containers()}
    assert {name: state[name]["Health"]["Status"] for name in ALWAYS} == dict.fromkeys(ALWAYS, "healthy")
    assert (state["migrate"]["Status"], state["migrate"]["ExitCode"]) == ("exited", 0)


def test_a_job_of_every_kind_is_followed_to_its_verified_end(pipeline):
    client = Client(pipeline.address, pipeline.token(), Console(quiet=True))
    ended = asyncio.run(client.run(SITE))
    assert [(one.job["kind"], one.finding) for one in ended if not one.verified] == []
    assert len(ended) == 5 + 2 * 3  # five kinds, and the two synthetic ones on each of the three lanes


def test_it_holds_a_load_from_request_to_result(pipeline):
    done = pipeline.make_compose("load", "--shape", "smoke")
    last = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"load: (\d+) submitted, \1 verified, 0 lost, 0 double, 0 wrong: PASS", last), done.stdout
    assert done.returncode == 0


def test_the_edge_keeps_what_is_for_machines_to_itself(pipeline):
    for path in ("/metrics", "/healthz", "/readyz"):
        assert httpx2.get(pipeline.address + path, trust_env=False).status_code == 404


# That the workers are what the policy says


def assert_as_planned(pipeline: Pipeline) -> dict[str, list[int]]:
    """Every live worker against the plan for its container's limits; how many slots each has, by lane."""
    answers, slots = pipeline.ask_workers(), {}
    for lane, service in WORKERS.items():
        for container in pipeline.containers(service):
            plan, live = planned(container, lane), answers.pop(container["Config"]["Hostname"])
            stats = live["stats"]
            pool = {"prefork": "prefork", "threads": "thread", "solo": "solo"}[plan.pool]
            assert pool in stats["pool"]["implementation"]
            assert stats["pool"]["max-concurrency"] == plan.concurrency
            assert stats["prefetch_count"] == plan.concurrency * plan.prefetch_multiplier
            assert [queue["name"] for queue in live["queues"]] == [lane]
            assert container["Config"]["StopTimeout"] == plan.stop_timeout_s
            assert container["HostConfig"]["Memory"] >= plan.memory_max_mb * 2**20
            slots.setdefault(lane, []).append(plan.concurrency)
    assert answers == {}
    return slots


def test_live_workers_are_what_sizing_gives_their_limits(pipeline):
    assert {lane: len(slots) for lane, slots in assert_as_planned(pipeline).items()} == {"cpu": 1, "io": 1, "quick": 1}


def test_more_workers_are_one_option_away(pipeline):
    pipeline.compose("up", "--detach", "--wait", "--no-recreate", "--scale", "worker-cpu=3")
    assert len(assert_as_planned(pipeline)["cpu"]) == 3
    with pipeline.http() as http:
        lanes = http.get("/api/lanes").json()["items"]
    assert {lane["name"]: len(lane["workers"]) for lane in lanes} == {"cpu": 3, "io": 1, "quick": 1}


def test_another_limit_is_another_concurrency(pipeline):
    before = assert_as_planned(pipeline)["cpu"]
    less = {"WORKER_CPU_CORES": "1", "WORKER_CPU_MEMORY": "400m"}
    pipeline.compose("up", "--detach", "--wait", "--no-deps", "--scale", "worker-cpu=1", "worker-cpu", **less)
    assert assert_as_planned(pipeline)["cpu"] == [1] != before[:1]


def test_a_worker_that_is_stopped_ends_its_job_first(pipeline):
    with pipeline.http() as http:
        job = http.post("/api/jobs", json={"kind": "wait", "params": {"lane": "cpu", "ms": 6000}}).json()
        wait_until(lambda: http.get(job["url"]).json()["state"] == "running", why="the job runs")
        pipeline.compose("stop", "worker-cpu")
        job = http.get(job["url"]).json()
    pipeline.compose("start", "worker-cpu")
    assert (job["state"], job["attempt"]) == ("succeeded", 1)


def test_a_worker_that_does_not_fit_says_so_in_one_sentence(pipeline):
    run = ["run", "--rm", "--no-deps", "-T", "worker-quick"]
    done = pipeline.compose(*run, check=False, WORKER_QUICK_MEMORY="100m")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"this container has 100 MB.* takes 140 MB: give it 140 MB, or .*\.", last), done.stderr


def test_a_restarted_broker_keeps_what_is_queued(pipeline):
    [broker] = pipeline.containers("redis")
    cli = 'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" redis-cli --user headrace'
    transaction = r"printf 'MULTI\nLPUSH kept one\nLPUSH kept two\nEXEC\n'"
    pipeline.run(broker["Id"], "sh", "-c", f"{transaction} | {cli}")
    pipeline.compose("restart", "redis")
    kept = ("sh", "-c", f"{cli} LLEN kept")
    wait_until(lambda: pipeline.run(broker["Id"], *kept).stdout == "2\n", why="Redis has read its file back")


# That nobody can do more than they must


def test_every_container_is_confined(pipeline):
    for container in pipeline.containers():
        host, name = container["HostConfig"], container["Name"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert min(host["NanoCpus"], host["Memory"], host["PidsLimit"]) > 0, name
        assert not host["Privileged"], name


def test_no_process_is_root_and_none_can_write_its_image(pipeline):
    for container in pipeline.containers(*ALWAYS):
        name = container["Name"]
        states = pipeline.run(container["Id"], "sh", "-c", "cat /proc/[0-9]*/status").stdout
        uids = [line.split()[1:] for line in states.splitlines() if line.startswith("Uid:")]
        assert uids, name
        assert not [ids for ids in uids if "0" in ids], name
        assert set(re.findall(r"^CapEff:\s+(\w+)", states, re.MULTILINE)) == {"0" * 16}, name
        refusal = pipeline.run(container["Id"], "touch", "/etc/headrace-was-here", user="root").stderr
        assert "Read-only file system" in refusal, name


def test_only_the_edge_has_a_port_and_only_on_loopback(pipeline):
    published = {one["Name"]: one["HostConfig"]["PortBindings"] for one in pipeline.containers()}
    [(name, ports)] = [(name, ports) for name, ports in published.items() if ports]
    assert name == f"/{PROJECT}-edge-1"
    assert ports == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(pipeline.port)}]}


def test_only_edge_and_worker_io_have_a_way_out(pipeline):
    has_a_way_out = {
        one["Config"]["Labels"]["com.docker.compose.service"]
        for one in pipeline.containers()
        if not all(pipeline.is_internal(name) for name in one["NetworkSettings"]["Networks"])
    }
    assert has_a_way_out == {"edge", "worker-io", "site"}


def test_what_must_stay_is_in_named_volumes(pipeline):
    for service, folder in {"postgres": "/var/lib/postgresql/data", "redis": "/data"}.items():
        [container] = pipeline.containers(service)
        volumes = {one["Destination"]: one["Name"] for one in container["Mounts"] if one["Type"] == "volume"}
        assert volumes == {folder: f"{PROJECT}_{service}"}


# Secrets


def test_secrets_are_in_files_and_nowhere_else(pipeline):
    assert stat.S_IMODE(SECRETS.stat().st_mode) == 0o700
    values = [(SECRETS / name).read_text().strip() for name in ("secret_key", "postgres_password", "redis_password")]
    seen = str(pipeline.containers()) + pipeline.compose("config").stdout + pipeline.logs()
    for container in pipeline.containers(*ALWAYS):
        seen += pipeline.run(container["Id"], "sh", "-c", "cat /proc/[0-9]*/cmdline").stdout
    assert not [value for value in values if value in seen]
    assert len(set(values)) == 3


def test_secrets_are_made_once(pipeline):
    before = {file.name: file.read_text() for file in SECRETS.iterdir()}
    assert pipeline.make_compose("prepare").returncode == 0
    assert {file.name: file.read_text() for file in SECRETS.iterdir()} == before


@pytest.mark.parametrize(
    ("secret", "value", "sentence"),
    [
        ("secret_key", "short", r"HEADRACE_SECRET_KEY is wrong: .*\."),
        ("secret_key", "", r"HEADRACE_SECRET_KEY is wrong: .*\."),
        ("database_url", "postgresql://headrace:wrong@postgres/headrace", r"PostgreSQL does not let us in \(.*\.",),
        ("broker_url", "redis://headrace:wrong@redis:6379/0", r"Redis does not let us in \(.*\."),
    ],
)  # fmt: skip
def test_a_wrong_secret_is_one_sentence(pipeline, tmp_path, secret, value, sentence):
    folder = copy_of_secrets(tmp_path / "secrets", **{secret: value})
    run = ["run", "--rm", "--no-deps", "-T", "migrate"]
    done = pipeline.compose(*run, check=False, SECRETS_FOLDER=folder)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if not line.startswith((" Container", " Network"))]
    assert len(said) == 1, done.stderr
    assert re.fullmatch(sentence, said[0]), said[0]
    assert "Traceback" not in done.stdout


def test_no_secrets_at_all_is_one_sentence_that_names_the_mend(pipeline):
    done = pipeline.compose("--env-file", os.devnull, "up", check=False, SECRETS_FOLDER=None)
    assert done.returncode != 0
    [said] = done.stderr.splitlines()
    assert said.endswith("run make compose first")


def test_new_secrets_for_an_old_volume_stop_the_start_with_a_sentence(pipeline):
    right = (SECRETS / "postgres_password").read_text()
    (SECRETS / "postgres_password").write_text("not-that-of-the-volume")
    done = pipeline.make_compose()
    (SECRETS / "postgres_password").write_text(right)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"Not all of it is up\. migrate says: PostgreSQL does not let us in \(.*'down -v'\.", said), (
        said
    )


# That it goes


def test_taken_down_with_its_volumes_it_leaves_nothing(pipeline):
    assert set(leftovers()) == {"container", "volume", "network"}
    pipeline.compose("down", "--volumes")
    assert leftovers() == {}
