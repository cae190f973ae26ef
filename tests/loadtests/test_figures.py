"""The numbers that judge a run: the knee, the backlog, the load generator itself."""

import pytest

from loadtests import figures, slo
from loadtests.facts import LaneStage
from loadtests.samples import GeneratorSample, LaneSample, Queue


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (LaneStage(20, 20, 20), "keeps up with all of it, 20.0"),
        (LaneStage(20, 20, 12, saturated=True), "keeps up with 10.0 jobs/s; at 20.0 the lane saturates, and ends 12.0"),
        (LaneStage(20, 9, 9), "at 20.0 the way in saturates before the lane, and accepts 9.0"),
    ],
)
def test_the_knee_is_where_a_lane_or_the_way_in_stops_keeping_up(last, words):
    assert words in figures.knee([LaneStage(10, 10, 10), last])


def test_a_backlog_lasts_as_long_as_jobs_wait_after_the_shape():
    looks = [LaneSample(100 + at, {"cpu": Queue(queued)}) for at, queued in ((5, 9), (11, 4), (18, 1), (19, 0))]
    assert figures.backlog("cpu", 10, 100, looks) == (10, 18)
    assert figures.backlog("io", 10, 100, looks) == (10, 10)


@pytest.mark.parametrize(("cpu", "delay", "invalid"), [(0.5, 0.01, 0), (0.99, 0.01, 1), (0.5, 0.4, 1)])
def test_a_generator_that_is_too_slow_makes_the_run_invalid(cpu, delay, invalid):
    samples = {"here": [GeneratorSample(1.0, cpu, [delay] * 50)]}
    found = figures.generators(samples, slo.read().generator)
    assert len(found.invalid) == invalid
