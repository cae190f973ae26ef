"""burn and wait: work of a known cost, on the lane that the params name, with a result that a client can check."""

import hashlib
import json
import time

import pytest
from pydantic import ValidationError

from kinds import ALL, burn, mandelbrot, wait
from kinds.base import Stopped

silent = mandelbrot.silent


def test_burn_uses_the_cpu_time_that_was_asked_for():
    began = time.thread_time()
    result = burn.run(burn.BurnParams(ms=60), silent).result
    used = (time.thread_time() - began) * 1000
    assert 60 <= result["cpu_ms"] <= used
    assert result["rounds"] > burn.CHECK_ROUNDS


def test_burn_takes_the_same_steps_for_the_same_seed():
    link = b"7"
    for _ in range(1000):
        link = hashlib.sha256(link).digest()
    assert burn.run(burn.BurnParams(ms=0, seed=7), silent).result["check"] == link.hex()


def test_burn_does_not_count_time_in_which_it_waits():
    """Its clock is the thread's: a progress that waits costs nothing."""
    waited = []

    def slow(share, note=""):
        waited.append(share)
        time.sleep(0.01)

    result = burn.run(burn.BurnParams(ms=20), slow).result
    assert result["cpu_ms"] >= 20
    assert len(waited) >= 2


def test_wait_waits_in_steps(recorder):
    began = time.monotonic()
    result = wait.run(wait.WaitParams(ms=120), recorder).result
    assert 120 <= result["waited_ms"] <= (time.monotonic() - began) * 1000
    assert len(recorder.shares) >= 3
    recorder.assert_sane()


@pytest.mark.parametrize(("module", "model"), [(burn, burn.BurnParams), (wait, wait.WaitParams)])
class TestBoth:
    def test_a_right_result_verifies_and_a_wrong_one_does_not(self, module, model):
        result = module.run(model(ms=10, seed=3), silent).result
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert module.verify({"ms": 10, "seed": 3}, result)
        assert not module.verify({"ms": 10, "seed": 4}, result)
        assert not module.verify({"ms": 60_000, "seed": 3}, result)

    def test_a_stop_gets_out_at_the_next_step(self, module, model, stopping, recorder):
        stop = stopping(2)
        with pytest.raises(Stopped):
            module.run(model(ms=60_000), stop)
        assert len(stop.shares) == 2
        module.run(model(ms=50), recorder)
        recorder.assert_sane()

    def test_the_params_name_the_lane(self, module, model):
        kind = ALL[module.KIND.name]
        assert kind.synthetic
        assert [kind.lane_for(model(lane=lane)) for lane in ("cpu", "io", "quick")] == ["cpu", "io", "quick"]
        with pytest.raises(ValidationError):
            model(lane="other")
        assert module.run(model(ms=0), silent).result


def test_every_kind_has_a_form_that_can_be_sent_as_it_stands():
    """Defaults for all that a person may ask for, and words for every field."""
    for kind in ALL.values():
        fields = kind.params.model_json_schema()["properties"]
        assert all(field.get("title") and field.get("description") for field in fields.values()), kind.name
        if not kind.internal:
            kind.params()
