"""`make load`, run for real against a started stack: green when all is well, red for each way in which it is not."""

import re
import signal

from harness.waiting import wait_until
from tests.loadtests.loading import CLOSED, LIMITS, OPEN, PATIENCE_S

LAST = re.compile(r"load: (\d+) submitted, (\d+) verified, (\d+) lost, (\d+) double, (\d+) wrong: (PASS|FAIL)")


def counts(load):
    """The last line, as numbers by name, and its verdict."""
    found = LAST.fullmatch(load.last)
    assert found, load.said
    *numbers, verdict = found.groups()
    return dict(zip(("submitted", "verified", "lost", "double", "wrong"), map(int, numbers), strict=True)), verdict


def a_finished_digest(demo, since):
    """The id of a job whose client has just been told of the end."""
    found = "SELECT id FROM jobs_job WHERE kind = 'digest' AND notified_at IS NOT NULL AND id > ? ORDER BY id LIMIT 1"
    return wait_until(lambda: demo.ledger(found, since), 60, "a digest has ended")[0][0]


def newest(demo):
    return demo.ledger("SELECT coalesce(max(id), '') FROM jobs_job")[0][0]


def exception(load, verdict, job):
    """What the report says of a job that is not as promised."""
    [found] = [one for one in load.facts["audit"]["exceptions"] if one["id"].replace("-", "") == job]
    assert found["verdict"] == verdict, found
    assert found["id"] in load.out
    return found["why"]


# Green


def test_a_smoke_run_against_a_real_stack_is_green(demo, load):
    run = load(CLOSED | {"ways": {"single": 2, "keyed": 1, "batch": 1, "poll": 1}, "batch_size": 3})
    assert run.wait() == 0, run.said
    number, verdict = counts(run)
    assert verdict == "PASS"
    assert number["submitted"] == number["verified"] > 20
    assert {row["stage"] for row in run.facts["table"]} == {"submit", "queue wait", "run", "notify", "end to end"}
    assert {(row["lane"], row["kind"]) for row in run.facts["table"]} >= {("io", "wait"), ("quick", "digest")}
    assert run.verdict("io") is True
    assert (run.folder / "report.html").stat().st_size > 10_000


def test_an_open_run_counts_from_the_moment_that_was_intended_and_is_green(demo, load):
    run = load(OPEN)
    assert run.wait() == 0, run.said
    number, _ = counts(run)
    expected = 2 * 8 * 4  # two lanes, so many seconds, so many jobs a second: whatever the server does
    assert expected - 2 <= number["submitted"] <= expected


def test_clients_that_follow_all_of_their_jobs_on_one_socket_are_told_of_every_end(demo, load):
    run = load(CLOSED | {"ways": {"single": 2, "keyed": 1, "batch": 1}, "batch_size": 3}, "--one-socket")
    assert run.wait() == 0, run.said
    number, verdict = counts(run)
    assert verdict == "PASS"
    assert number["submitted"] == number["verified"] > 20
    assert run.facts["run"]["one_socket"] is True


def test_the_kinds_that_people_use_are_verified_too(demo, load):
    run = load(CLOSED | {"work": {"picture": 1, "page": 1, "digest": 1}}, "--fetch", f"{demo.site}/gate.html")
    assert run.wait() == 0, run.said
    assert counts(run)[1] == "PASS"
    assert {row["kind"] for row in run.facts["table"]} >= {"mandelbrot", "fetch", "digest"}


# Red


def test_a_generator_that_is_too_slow_to_be_believed_turns_the_run_red(demo, load):
    run = load(CLOSED, generator={"cpu": 0, "delay_p99_s": 60})
    assert run.wait() == 1, run.said
    number, verdict = counts(run)
    assert verdict == "FAIL"
    assert number["submitted"] == number["verified"]
    assert "invalid: the load generator was too slow" in run.out


def test_a_slowed_lane_turns_the_run_red_and_no_other(demo, load, stopped_io):
    waiting = "SELECT count(*) FROM jobs_job WHERE lane = 'io' AND state = 'queued'"
    strict = {"measure": "queue wait p95", "lanes": ["io"], "at_most": 10, "of": "run p50"}
    run = load(OPEN, limits=[strict, *LIMITS[1:]])
    wait_until(lambda: demo.ledger(waiting)[0][0] >= 20, PATIENCE_S, "jobs pile up")
    demo.signal_worker("io", signal.SIGCONT)
    assert run.wait() == 1, run.said
    number, verdict = counts(run)
    assert verdict == "FAIL"
    assert number["submitted"] == number["verified"]  # slow, but right
    assert run.verdict("io") is False
    assert run.verdict("quick") is True
    assert "missed" in run.out


def test_a_lost_job_turns_the_run_red(demo, load):
    before = newest(demo)
    run = load(CLOSED)
    running = "SELECT id FROM jobs_job WHERE kind = 'wait' AND state = 'running' AND id > ? LIMIT 1"
    stuck = "UPDATE jobs_job SET open_parts = 1, lease_until = NULL WHERE id = ? AND state = 'running' RETURNING id"

    def one_that_is_stuck():
        return [one for row in demo.ledger(running, before) for one in demo.ledger(stuck, *row)]

    job = wait_until(one_that_is_stuck, PATIENCE_S, "one is running")[0][0]
    assert run.wait() == 1, run.said
    number, verdict = counts(run)
    assert (number["lost"], verdict) == (1, "FAIL")
    assert number["verified"] == number["submitted"] - 1
    assert "still running" in exception(run, "lost", job)


def test_a_job_that_the_server_forgot_turns_the_run_red(demo, load):
    run = load(CLOSED)
    job = a_finished_digest(demo, newest(demo))
    demo.ledger("DELETE FROM jobs_job WHERE id = ?", job)
    assert run.wait() == 1, run.said
    assert counts(run)[0]["lost"] == 1
    assert "does not know it" in exception(run, "lost", job)


def test_a_wrong_result_turns_the_run_red(demo, load):
    run = load(CLOSED)
    job = a_finished_digest(demo, newest(demo))
    demo.ledger("UPDATE jobs_job SET result = json_set(result, '$.words', 1) WHERE id = ?", job)
    assert run.wait() == 1, run.said
    number, verdict = counts(run)
    assert (number["wrong"], verdict) == (1, "FAIL")
    assert "not the right digest" in exception(run, "wrong", job)


def test_a_job_that_ends_twice_turns_the_run_red(demo, load):
    run = load(CLOSED)
    job = a_finished_digest(demo, newest(demo))
    again = "UPDATE jobs_job SET state = 'queued', finished_at = NULL, published_at = NULL WHERE id = ?"
    demo.ledger(again, job)
    assert run.wait() == 1, run.said
    number, verdict = counts(run)
    assert (number["double"], verdict) == (1, "FAIL")
    assert "did not end once" in exception(run, "double", job)


# Ends


def test_ctrl_c_ends_it_early_and_still_reports(demo, load):
    run = load(CLOSED | {"stages": [{"name": "long", "seconds": 600, "users": 3, "spawn_rate": 10}]})
    a_finished_digest(demo, newest(demo))
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.said
    number, verdict = counts(run)
    assert verdict == "PASS"
    assert number["submitted"] == number["verified"] > 0
    assert run.facts["run"]["interrupted"] is True
    assert (run.folder / "report.html").exists()
