"""The parts of the load test that decide: arrivals, clocks, the audit, limits, the knee, the drawing."""

import os
import random
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from loadtests import LoadError, audit, charts, figures, shapes, slo, stores, work
from loadtests.clock import Clock
from loadtests.ledger import Ledger, Record

IDS = iter(f"{number:032x}" for number in range(1000))


def moment(seconds):
    return f"2030-01-01T00:00:{seconds:09.6f}Z"


def a_digest(**changes):
    """The row of a digest that ended as it should."""
    text = "the wheel turns"
    params = {"text": text}
    outcome = work.digest.run(work.digest.DigestParams(text=text), lambda share, note="": None)
    row = {
        "id": next(IDS),
        "kind": "digest",
        "lane": "quick",
        "params": params,
        "state": "succeeded",
        "error": None,
        "result": outcome.result,
        "attempt": 1,
        "created_at": moment(1),
        "started_at": moment(2),
        "finished_at": moment(3),
    }
    return row | changes


def seen(row, **changes):
    """The record of a client that has seen the row's end as it stands."""
    record = Record(row["id"], row["lane"], row["kind"], row["params"], "single", "only", 0.0, 0.0, 0.1, 30.0)
    record.told_at, record.closed = 3.1, True
    record.saw(row)
    audit.judge(record, row, None)
    for name, value in changes.items():
        setattr(record, name, value)
    return record


# The audit


def test_a_job_that_ended_once_in_time_with_the_right_result_is_verified():
    row = a_digest()
    assert audit.finding(seen(row), [row], None).verdict == "verified"


@pytest.mark.parametrize(
    ("row", "told", "rows", "verdict", "why"),
    [
        ({}, {}, [], "lost", "does not know it"),
        ({}, {"told_at": 31.0}, None, "lost", "late"),
        ({}, {"told_at": None}, None, "lost", "was not told"),
        ({}, {"trouble": "closed with 4404"}, None, "lost", "closed with 4404"),
        ({}, {}, [{"state": "running"}], "lost", "still running"),
        ({}, {}, [{"finished_at": moment(4)}], "double", "did not end once"),
        ({}, {}, [{"state": "failed"}], "double", "did not end once"),
        ({}, {}, [{}, {}], "double", "lists it twice"),
        ({}, {"double": "its key gave another"}, None, "double", "its key gave another"),
        ({}, {}, [{"result": {}}], "wrong", "not the right digest"),
        ({"result": {"sha256": "0"}}, {}, None, "wrong", "not the right digest"),
        ({"state": "failed", "error": "The wheel broke.", "result": None}, {}, None, "wrong", "The wheel broke."),
    ],
)
def test_each_way_to_break_the_promise_has_its_class(row, told, rows, verdict, why):
    first = a_digest(**row)
    now = [first] if rows is None else [first | change for change in rows]
    found = audit.finding(seen(first, **told), now, None)
    assert (found.verdict, found.id) == (verdict, first["id"])
    assert why in found.why


def test_a_client_that_we_stopped_ourselves_lost_nothing():
    row = a_digest()
    assert audit.finding(seen(row, told_at=None, closed=False), [row], None).verdict == "verified"


def test_a_run_that_submitted_nothing_has_not_passed():
    assert not audit.Audit().passed


def test_two_submits_with_one_id_are_a_double():
    ledger, row = Ledger(), a_digest()
    ledger.accept(seen(row))
    ledger.accept(seen(row))
    assert audit.finding(ledger.records[row["id"]], [row], None).verdict == "double"


def test_a_master_knows_what_its_workers_know():
    worker, master, row = Ledger(), Ledger(), a_digest()
    record = seen(row, told_at=None, closed=False)
    worker.accept(record)
    master.learn(worker.news())
    assert master.tallies["quick"].submitted - master.tallies["quick"].closed == 1
    record.told_at = 3.1
    worker.close(record)
    worker.refuse("no")
    worker.fail()
    master.learn(worker.news())
    assert master.records[row["id"]] == record
    assert (master.tallies["quick"].submitted, master.tallies["quick"].closed) == (1, 1)
    assert master.refused == {"no": 1}
    assert master.failed == 1
    assert worker.news() == {"records": [], "refused": [], "failed": 0}


# Arrivals


def test_arrivals_keep_the_rate_whatever_the_stages():
    moments = list(shapes.arrivals([(10, 2), (5, 0), (10, 8)], 0.5))
    assert sum(at < 10 for at in moments) == 20
    assert not [at for at in moments if 10 <= at < 15]
    assert sum(at >= 15 for at in moments) == 80
    assert moments == sorted(moments)


def test_a_slow_stage_does_not_hide_the_quick_one_after_it():
    moments = list(shapes.arrivals([(10, 0.05), (10, 5)], 1.0))
    assert len(moments) == 50
    assert 10 < moments[0] < 10.2
    assert all(later - earlier == pytest.approx(0.2) for earlier, later in pairwise(moments))


# Clocks


def test_the_offset_is_found_between_what_bounds_it():
    chance, clock, offset = random.Random(1), Clock(), 123.456
    for number in range(300):
        sent = number * 0.1
        received = sent + chance.uniform(0.005, 0.2)
        clock.bracket(sent, received, chance.uniform(sent, received) + offset)
    found = clock.offset()
    assert abs(found.seconds - offset) <= found.uncertainty < 0.01


def test_slow_answers_do_not_spoil_what_quick_ones_have_shown():
    clock = Clock()
    clock.bracket(0.0, 0.01, 0.005)
    clock.bracket(0.0, 40.0, 39.9)
    assert clock.offset().uncertainty < 0.01


def test_a_clock_that_is_set_is_measured_anew():
    clock = Clock()
    clock.bracket(0.0, 0.01, 0.005)
    clock.bracket(1.0, 1.01, 3601.005)
    assert clock.offset().seconds == pytest.approx(3600, abs=0.02)


# Limits


def measured(records, **changes):
    facts = {"shape": "smoke", "lanes": {"quick": {"latency_target_s": 1.0}}, "efficiency": {}, "refused": 0}
    return slo.Measured(records={"quick": records}, **(facts | changes))


def judged(limit, records, **changes):
    generator = slo.Generator(cpu=1, delay_p99_s=1)
    return [one.ok for one in slo.judge(slo.Slo(limits=[limit], generator=generator), measured(records, **changes))]


def limit(measure, **given):
    return slo.Limit(measure=measure, **given)


WAITED = [seen(a_digest(), stage=stage) for stage in ("calm",) * 5 + ("flood",) * 5]


@pytest.mark.parametrize(
    ("one", "ok"),
    [
        (limit("queue wait p95", at_most=1.5), True),
        (limit("queue wait p95", at_most=0.5), False),
        (limit("queue wait p95", at_most=0.9, of="latency target"), False),
        (limit("queue wait p95", at_most=1.1, of="run p50"), True),
        (limit("end to end p50", during="flood", at_most=2, of="stage calm"), True),
        (limit("end to end p50", during="flood", at_most=0.5, of="stage calm"), False),
        (limit("end to end p50", during="never", at_most=1), None),
        (limit("efficiency", at_least=0.5), None),
    ],
)
def test_a_limit_is_held_missed_or_not_judged(one, ok):
    assert judged(one, WAITED) == [ok]


def test_a_limit_is_for_its_shapes_and_lanes_only():
    assert judged(limit("queue wait p95", at_most=0, shapes=["soak"]), WAITED) == []
    assert judged(limit("queue wait p95", at_most=0, lanes=["cpu"]), WAITED) == []


def test_refusals_and_efficiency_are_judged():
    assert judged(limit("refused", at_most=0), WAITED, refused=1) == [False]
    assert judged(limit("efficiency", at_least=0.9), WAITED, efficiency={"quick": 0.8}) == [False]


def test_the_limits_and_shapes_that_we_ship_fit_each_other():
    book, limits = shapes.read(), slo.read()
    for one in limits.limits:
        for name in one.shapes or ():
            stages = {stage.name for stage in book.shape(name).stages}
            assert one.during is None or one.during in stages
            assert not str(one.of).startswith("stage ") or str(one.of).removeprefix("stage ") in stages


# The knee, and the generator


def stage(arrived, accepted, ended, saturated):
    return {"arrived": arrived, "accepted": accepted, "ended": ended, "saturated": saturated}


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (stage(20, 20, 20, False), "keeps up with all of it, 20.0"),
        (stage(20, 20, 12, True), "keeps up with 10.0 jobs/s; at 20.0 the lane saturates, and ends 12.0"),
        (stage(20, 9, 9, False), "at 20.0 the way in saturates before the lane, and accepts 9.0"),
    ],
)
def test_the_knee_is_where_a_lane_or_the_way_in_stops_keeping_up(last, words):
    assert words in figures.knee([stage(10, 10, 10, False), last])


def test_a_backlog_lasts_as_long_as_jobs_wait_after_the_shape():
    looks = [
        {"at": 100 + at, "lanes": {"cpu": {"queued": queued}}} for at, queued in ((5, 9), (11, 4), (18, 1), (19, 0))
    ]
    assert figures.backlog("cpu", 10, 100, looks) == (10, 18)
    assert figures.backlog("io", 10, 100, looks) == (10, 10)


@pytest.mark.parametrize(("cpu", "delay", "invalid"), [(0.5, 0.01, 0), (0.99, 0.01, 1), (0.5, 0.4, 1)])
def test_a_generator_that_is_too_slow_makes_the_run_invalid(cpu, delay, invalid):
    samples = {"here": [{"at": 1.0, "cpu": cpu, "delays": [delay] * 50}]}
    found = figures.generators(samples, slo.read().generator)
    assert len(found["invalid"]) == invalid


# The work


OFFERED = {"digest": {"lane": "quick"}, "mandelbrot": {"lane": "cpu"}, "fetch": {"lane": "io"}}
LANES = {"cpu", "io", "quick"}


def test_where_synthetic_kinds_are_off_a_lane_gets_a_real_one():
    book, page = shapes.read(), work.Page("http://127.0.0.1:9/", 1, "0")
    chosen = work.choose(book, book.shape("smoke"), OFFERED, LANES, page)
    assert {piece.work.kind for piece in chosen} == {"digest", "mandelbrot", "fetch"}
    with pytest.raises(LoadError, match="needs a page to fetch"):
        work.choose(book, book.shape("smoke"), OFFERED, LANES, None)


def test_equal_results_have_equal_fingerprints_and_others_have_not():
    assert work.fingerprint({"a": [1, {"b": 2}], "c": None}) == work.fingerprint({"c": None, "a": [1, {"b": 2}]})
    assert work.fingerprint({"a": 1}) != work.fingerprint({"a": "1"})


# What is drawn and counted


def test_a_chart_is_well_formed_and_has_gaps_where_nothing_is_known():
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 3.0), (4.0, 4.0)]
    drawing = charts.chart([charts.Series("a < b", points, "red")], 4, str, [charts.Mark(2, "x & y")])
    lines = [one for one in ET.fromstring(drawing).iter("path") if one.get("class") == "line"]
    assert len(lines) == 2


@pytest.mark.parametrize(("most", "top"), [(0, 1), (3, 3), (7, 8), (0.23, 0.25), (980, 1000)])
def test_an_axis_ends_at_a_round_value_above_all_others(most, top):
    found, step = charts.scale(most)
    assert found == pytest.approx(top) or found >= most
    assert found >= most
    assert round(found / step) == pytest.approx(found / step)


def test_redis_and_postgresql_are_counted_where_their_addresses_are_known():
    found = stores.Stores(os.environ)
    found.look()
    found.look()
    known = {"redis"} | ({"postgresql"} if os.environ["HEADRACE_DATABASE_URL"].startswith("postgres") else set())
    assert known == set(found.samples[-1]) - {"at"}
    assert found.samples[-1]["redis"]["rate"] > 0


def test_stores_that_are_unknown_or_away_are_named():
    away = stores.Stores({"HEADRACE_BROKER_URL": "redis://127.0.0.1:1/0"})
    away.look()
    assert "refused" in away.missing["redis"]
    assert away.missing["postgresql"] == "HEADRACE_DATABASE_URL does not say where it is"
    assert away.samples == []


def test_nothing_of_the_report_comes_from_elsewhere():
    """It must work offline: no address in what it is made of, but the server's own."""
    for path in (Path(slo.__file__).parent / name for name in ("report.py", "report.css", "charts.py", "markup.py")):
        assert "://" not in path.read_text(), path
