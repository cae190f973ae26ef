"""What the drills of the catalogue do, layer by layer: faults, their heals, and what must hold afterwards."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from deploy.subnet import machine_address
from drills import faults
from drills.faults import POSTGRESQL, REDIS
from drills.hosts import DrillError, Host
from drills.scene import Json, Scene
from harness.waiting import wait_until
from kinds import wait

WORKER = "headrace-worker@*"
LONG_S, LONG = 60, 5
BROKER_PORT, DATABASE_PORT = 6379, 5432


# Long jobs, which no fault but a death may make run again


def long_jobs(scene: Scene, lane: str = "io", count: int = LONG) -> None:
    """Jobs of a minute, which all run now: those of io in one process."""
    jobs = [{"kind": "wait", "params": {"lane": lane, "ms": LONG_S * 1000, "seed": seed}} for seed in range(count)]
    made = scene.ask("POST", "/api/jobs/batch", {"jobs": jobs})["jobs"]
    scene.kept["long"] = scene.kept["ours"] = [job["id"] for job in made]
    for job_id in scene.kept["long"]:
        scene.running(job_id)


def long_jobs_ran_once(scene: Scene) -> str:
    """No attempt was used up, and the results are right."""
    ended = [scene.ended(job_id, 2 * LONG_S) for job_id in scene.kept["long"]]
    bad = [job for job in ended if (job["state"], job["attempt"]) != ("succeeded", 1)]
    bad += [job for job in ended if job["state"] == "succeeded" and not wait.verify(job["params"], job["result"])]
    return f"of {len(ended)} long jobs {len(bad)} did not end well at once: {bad[:1]}" if bad else ""


# Workers and their hosts


def a_worker_host(scene: Scene) -> Host:
    """One that runs jobs now, and whose lanes others serve as well; the heal finds it in `kept`."""
    [host] = scene.at_work([scene.spare("workers", "cpu")])
    scene.kept["host"] = host
    return host


def kill_pool_children(scene: Scene) -> None:
    """Of every prefork worker; its parent lives."""
    for host in scene.at_work(host for host in scene.of("workers") if "cpu" in host.lanes):
        kill_children(host, "headrace-worker@cpu-1")


def kill_workers(scene: Scene) -> None:
    """Of every host."""
    for host in scene.at_work(scene.of("workers")):
        host.signal(WORKER, "KILL")


def kill_children(host: Host, unit: str) -> None:
    host.sh(f"pkill -KILL --parent $(systemctl show --property=MainPID --value {unit})")


def stop_workers(scene: Scene) -> None:
    host = a_worker_host(scene)
    scene.kept["restarts"] = restarts(host)
    faults.freeze(host, WORKER)


def restarts(host: Host) -> dict[str, int]:
    return {unit: int(host.show(unit, "NRestarts")) for unit in sorted(host.units(WORKER))}


def watchdog_restarted_them(scene: Scene) -> str:
    """By systemd's watchdog: the timer that would thaw them comes later."""
    host, before = scene.kept["host"], scene.kept["restarts"]

    def again() -> bool:
        now = restarts(host)
        return set(now) == set(before) and all(now[unit] > before[unit] for unit in before)

    try:
        wait_until(again, 120, "systemd restarts each")
    except TimeoutError:
        return f"systemd has not restarted every frozen worker: {before}, then {restarts(host)}"
    return ""


def power_off_worker(scene: Scene) -> None:
    a_worker_host(scene).cut_power()


def power_on(scene: Scene) -> None:
    scene.kept["host"].restore_power()


def fill_disk(scene: Scene) -> None:
    """Fill every place that a worker host writes to, and kill its workers: they must start with a full disk."""
    host = a_worker_host(scene)
    host.sh(FILL)
    host.sh(f"systemctl kill --kill-whom=all --signal=KILL '{WORKER}'")


PLACES = "/var/lib/headrace /var/log/journal /var/tmp /tmp"
FILL = f"""for place in {PLACES}; do
  mkdir -p $place
  mount -t tmpfs -o size=1m,mode=1777 headrace-drill $place
  dd if=/dev/zero of=$place/full bs=64k 2>/dev/null || true
  ! echo x > $place/more 2>/dev/null || cat /dev/zero > $place/more 2>/dev/null || true
done"""


def empty_disk(scene: Scene) -> None:
    scene.kept["host"].sh(f"for place in {PLACES}; do umount -l $place; done")


STEP_S = 3600


def clocks(scene: Scene) -> list[Host]:
    """The hosts whose clocks are set: one of the workers, one of the web tier."""
    return [scene.spare("workers", "cpu"), scene.spare("web")]


def give_clocks(scene: Scene) -> None:
    for host in clocks(scene):
        faults.own_clock(host)


def step_clocks(scene: Scene) -> None:
    """An hour ahead."""
    for host in clocks(scene):
        faults.set_clock(host, STEP_S)


def step_clocks_back(scene: Scene) -> None:
    """An hour back, to what they were."""
    for host in clocks(scene):
        faults.set_clock(host, 0)


def take_clocks(scene: Scene) -> None:
    for host in clocks(scene):
        faults.common_clock(host)


def give_every_clock(scene: Scene) -> None:
    """To the hosts of the lane cpu: nobody knows which of them will have the long job."""
    for host in scene.of("workers"):
        if "cpu" in host.lanes:
            faults.own_clock(host)


def set_clock_wrong(scene: Scene) -> None:
    """An hour ahead, and it stays so."""
    long_jobs(scene, "cpu", 1)
    faults.set_clock(scene.host_of(scene.running(scene.kept["long"][0])), STEP_S)


def take_every_clock(scene: Scene) -> None:
    for host in scene.of("workers"):
        if "cpu" in host.lanes:
            faults.common_clock(host)


# The broker


def broker(scene: Scene) -> Host:
    return scene.of("broker")[0]


def restart_broker(scene: Scene) -> None:
    broker(scene).sh(f"systemctl restart {REDIS}")


BACKLOG = [{"kind": "wait", "params": {"lane": "quick", "ms": 500, "seed": seed}} for seed in range(40)]


def queue_up(scene: Scene) -> None:
    """More than the workers have fetched: what is in the queue when the broker loses it."""
    jobs = scene.ask("POST", "/api/jobs/batch", {"jobs": BACKLOG})["jobs"]
    scene.kept["backlog"] = scene.kept["ours"] = [job["id"] for job in jobs]


def backlog_comes_back(scene: Scene) -> str:
    ended = [scene.ended(job_id) for job_id in scene.kept["backlog"]]
    bad = [job for job in ended if job["state"] != "succeeded" or not wait.verify(job["params"], job["result"])]
    return f"of the backlog {len(bad)} did not come back right: {bad[:1]}" if bad else ""


def flush_broker(scene: Scene) -> None:
    queue_up(scene)
    scene.broker_says("FLUSHALL")


def delete_broker(scene: Scene) -> None:
    """Its process and its disk are gone."""
    queue_up(scene)
    broker(scene).sh(f"systemctl kill --signal=KILL {REDIS}; systemctl stop {REDIS}; rm -rf /var/lib/redis/broker/*")


def start_broker(scene: Scene) -> None:
    broker(scene).sh(f"systemctl reset-failed {REDIS}; systemctl start {REDIS}")


def pause_broker(scene: Scene) -> None:
    faults.freeze(broker(scene), REDIS)


def resume_broker(scene: Scene) -> None:
    faults.thaw(broker(scene), REDIS)


def fill_broker(scene: Scene) -> None:
    """It may use no more memory than it does, and so refuses writes."""
    most = int(scene.broker_says("CONFIG GET maxmemory").split()[-1])
    scene.kept["maxmemory"] = most
    used = int(scene.broker_says("INFO memory").split("used_memory:")[1].split()[0])
    scene.broker_says(f"CONFIG SET maxmemory {max(used, 2**20)}")


def empty_broker(scene: Scene) -> None:
    scene.broker_says(f"CONFIG SET maxmemory {scene.kept['maxmemory']}")


def forbid_writes(scene: Scene) -> None:
    """It wants a replica that takes them too, and has none."""
    scene.broker_says("CONFIG SET min-replicas-to-write 1")


def allow_writes(scene: Scene) -> None:
    scene.broker_says("CONFIG SET min-replicas-to-write 0")


def reset_connections(scene: Scene) -> None:
    faults.reset(broker(scene), BROKER_PORT)


# The network


def cut_from_broker(scene: Scene) -> None:
    host = a_worker_host(scene)
    faults.cut(host, scene.of("broker"), BROKER_PORT)


def cut_from_database(scene: Scene) -> None:
    host = a_worker_host(scene)
    faults.cut(host, scene.of("db"), DATABASE_PORT)


def mend(scene: Scene) -> None:
    faults.mend(scene.kept["host"])


# The database


def restart_database(scene: Scene) -> None:
    scene.of("db")[0].sh(f"systemctl restart '{POSTGRESQL}'")


def crash_database(scene: Scene) -> None:
    """Kill all of its processes at once; it recovers from its log when it is started."""
    host = scene.of("db")[0]
    host.signal(POSTGRESQL, "KILL")


def start_database(scene: Scene) -> None:
    scene.of("db")[0].sh("systemctl reset-failed 'postgresql@*'; systemctl start postgresql@17-main")


def pause_database(scene: Scene) -> None:
    long_jobs(scene)
    faults.freeze(scene.of("db")[0], POSTGRESQL)


def resume_database(scene: Scene) -> None:
    faults.thaw(scene.of("db")[0], POSTGRESQL)


LOCK_S, BETWEEN_S = 25, 8
LOCK = f"""
import time
from django.db import connection, transaction
from jobs.models import Job
def lock():
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        cursor.execute(f"LOCK TABLE {{Job._meta.db_table}} IN SHARE MODE")
        cursor.execute("SELECT pg_sleep({LOCK_S})")
lock()
time.sleep({BETWEEN_S})
lock()
print("unlocked")"""


def lock_table_twice(scene: Scene) -> None:
    """Readers pass, writers wait: what a plain CREATE INDEX does. The lock ends with its connection."""
    long_jobs(scene)
    scene.django(LOCK, 2 * LOCK_S + BETWEEN_S + 60)


# The web tier


def power_off_web(scene: Scene) -> None:
    host = scene.kept["host"] = scene.spare("web")
    host.cut_power()


def kill_sweeper_and_workers(scene: Scene) -> None:
    """The sweeper that leads dies when jobs of killed workers wait for it."""
    sweeper = faults.leader(scene, "sweeper")
    a_worker_host(scene).signal(WORKER, "KILL")
    sweeper.signal("headrace-sweeper", "KILL")


def freeze_sweeper_and_kill_workers(scene: Scene) -> None:
    sweeper = scene.kept["sweeper"] = faults.leader(scene, "sweeper")
    a_worker_host(scene).signal(WORKER, "KILL")
    faults.freeze(sweeper, "headrace-sweeper")


def thaw_sweeper(scene: Scene) -> None:
    faults.thaw(scene.kept["sweeper"], "headrace-sweeper")


ENTRY = "from jobs.models import ScheduleEntry as Entry; entry = Entry.objects.get(name='expire finished jobs'); "


def freeze_beat(scene: Scene) -> None:
    """Freeze the beat that leads, then make a schedule entry due."""
    if len(scene.of("beat")) < 2:
        raise DrillError("The drill freezes a beat, and the inventory has one: add another host to the group beat.")
    host = scene.kept["host"] = faults.leader(scene, "beat")
    faults.freeze(host, "headrace-beat")
    make_due = "entry.last_run_at -= timedelta(days=1); entry.save(); print(entry.total_run_count)"
    scene.kept["runs"] = int(scene.django(f"from datetime import timedelta; {ENTRY}{make_due}"))


def thaw_beat(scene: Scene) -> None:
    faults.thaw(scene.kept["host"], "headrace-beat")


def another_fired_once(scene: Scene) -> str:
    """The frozen beat runs again by now: the entry was fired once all the same, and another beat leads."""
    now, heir = int(scene.django(f"{ENTRY}print(entry.total_run_count)")), faults.leader(scene, "beat")
    if now != scene.kept["runs"] + 1:
        return f"a schedule that was due once was fired {now - scene.kept['runs']} times"
    return "" if heir.name != scene.kept["host"].name else f"{heir.name} leads still, though it was frozen"


# Jobs


def poison(scene: Scene) -> None:
    """A job whose pool process dies whenever it runs."""
    poisoned = scene.kept["job"] = scene.submit("wait", lane="cpu", ms=120_000)
    scene.kept["ours"] = [poisoned]
    for attempt in (1, 2, 3):
        scene.kept["last"] = scene.running(poisoned, attempt)
        kill_children(scene.host_of(scene.kept["last"]), "headrace-worker@cpu-1")


def poison_ends_with_a_sentence(scene: Scene) -> str:
    job, last = scene.ended(scene.kept["job"]), scene.kept["last"]
    expected = ("its worker died 3 times", last["worker"], "killed")
    fine = job["state"] == "failed" and job["attempt"] == 3 and all(words in job["error"] for words in expected)
    return "" if fine else f"the poison job {job['state']} after {job['attempt']} attempts: {job['error']}"


PAGE_PORT = 8099  # of this machine, in the cluster's network; the local inventory lets workers fetch from it
LINKS = "".join(f"<a href={number:x}>" for number in range(140_000))
PAGE = f'<base href="http://127.0.0.1/{"b" * 940}/">{LINKS}'.encode()


class PoisonPage(BaseHTTPRequestHandler):
    """A page that is 2 MB as text, the most that is read, and 135 MB as a list of addresses."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Not to the screen."""


def serve_poison_page(scene: Scene) -> None:
    if not all(host.container for host in scene.of("workers")):
        raise DrillError("The drill poison-page serves its page to the local cluster only: leave it out elsewhere.")
    scene.kept["site"] = server = ThreadingHTTPServer((machine_address(1), PAGE_PORT), PoisonPage)
    Thread(target=server.serve_forever, daemon=True).start()


def check_poison_page(scene: Scene) -> None:
    long_jobs(scene)
    scene.kept["job"] = scene.submit("linkcheck", url=f"http://{machine_address(1)}:{PAGE_PORT}/", limit=20)
    scene.kept["ours"] = [*scene.kept["long"], scene.kept["job"]]


def page_is_checked(scene: Scene) -> str:
    """As many links as were asked for, in one attempt, and nobody beside it was hurt."""
    job = scene.ended(scene.kept["job"])
    if (job["state"], job["attempt"]) != ("succeeded", 2) or job["result"]["checked"] != 20:
        return f"the page's check {job['state']} after {job['attempt']} attempts: {job['error'] or job['result']}"
    return long_jobs_ran_once(scene)


def stop_poison_page(scene: Scene) -> None:
    if server := scene.kept.get("site"):
        server.shutdown()
        server.server_close()


LANE_GONE = """
from datetime import timedelta
from django.db.models.functions import Now
from jobs.models import Job
waiting, running = {ids}
Job.objects.filter(pk=waiting).update(lane="gone", run_after=Now())
dead = Now() - timedelta(seconds=30)
left = {{"state": "running", "attempt": 1, "worker": "gone-1@nowhere", "started_at": dead, "lease_until": dead}}
print(Job.objects.filter(pk=running).update(lane="gone", **left))"""


def leave_jobs_of_no_lane(scene: Scene) -> None:
    """As a release leaves them that drops a lane."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    jobs = [{"kind": "wait", "params": {"seed": seed}, "run_after": later} for seed in range(2)]
    made = scene.ask("POST", "/api/jobs/batch", {"jobs": jobs})["jobs"]
    scene.kept["ours"] = [job["id"] for job in made]
    scene.django(LANE_GONE.format(ids=scene.kept["ours"]))
    a_worker_host(scene).signal(WORKER, "KILL")


def jobs_of_no_lane_end(scene: Scene) -> str:
    """Each with a sentence; the sweeper went on."""
    ended = [scene.ended(job_id, 150) for job_id in scene.kept["ours"]]
    bad = [job for job in ended if job["state"] != "failed" or "lane gone" not in job["error"]]
    return f"a job of a lane that is gone {bad[0]['state']}: {bad[0]['error']}" if bad else ""


def overrun(scene: Scene) -> None:
    """A job that wants more time than its lane allows."""
    scene.kept["job"] = scene.submit("wait", lane="quick", ms=120_000)
    scene.kept["ours"] = [scene.kept["job"]]


def overrun_ends_with_a_sentence(scene: Scene) -> str:
    job = scene.ended(scene.kept["job"])
    fine = job["state"] == "failed" and "longer than its lane allows" in job["error"]
    return "" if fine else f"the job over its time {job['state']}: {job['error']}"


def kill_host_of_a_long_job(scene: Scene) -> None:
    """Ten minutes of work, and its host loses power."""
    scene.spare("workers", "cpu")
    scene.kept["job"] = scene.submit("wait", lane="cpu", ms=590_000)
    scene.kept["ours"] = [scene.kept["job"]]
    host = scene.kept["host"] = scene.host_of(scene.running(scene.kept["job"]))
    host.cut_power()


def long_job_runs_again(scene: Scene) -> str:
    """Half a minute later, not after its own ten minutes."""
    try:
        job: Json = scene.running(scene.kept["job"], attempt=2, seconds=30)
    except TimeoutError as error:
        return f"the long job does not run again: {error}"
    scene.ask("POST", f"/api/jobs/{job['id']}/cancel")
    job = scene.ended(job["id"], 30)
    return "" if job["state"] == "cancelled" else f"the long job {job['state']} instead of being cancelled"
