"""Which limits a run holds."""

import pytest

from loadtests import shapes, slo
from loadtests.samples import GeneratorLimits, Lane
from tests.loadtests.records import a_digest, seen


def measured(records, **changes):
    facts = {"shape": "smoke", "lanes": {"quick": Lane("solo", 1, 1.0)}, "efficiency": {}, "refused": 0}
    return slo.Measured(records={"quick": records}, **(facts | changes))


def judged(limit, records, **changes):
    generator = GeneratorLimits(cpu=1, delay_p99_s=1)
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
