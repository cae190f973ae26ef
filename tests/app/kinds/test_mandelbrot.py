"""mandelbrot: the picture is the same however it is cut, and its numbers can be recomputed by other means."""

import hashlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from kinds import mandelbrot
from kinds.base import Stopped

SMALL = {"width": 90, "height": 70, "iterations": 200, "samples": 1}


def params(**changes):
    return mandelbrot.MandelbrotParams(**{**SMALL, **changes})


def run(progress=mandelbrot.silent, **changes):
    return mandelbrot.run(params(**changes), progress)


def pixels(artifact):
    return np.asarray(Image.open(io.BytesIO(artifact.content)))


def counts_by_hand(view):
    """Escape counts in plain Python, one point after the other, without shortcuts."""
    pitch = view.span / view.width
    for row in range(view.height):
        for column in range(view.width):
            cx, cy = view.re + (column + 0.5 - view.width / 2) * pitch, view.im - (row + 0.5 - view.height / 2) * pitch
            x = y = 0.0
            for count in range(1, view.iterations + 1):
                x, y = x * x - y * y + cx, (x * y + x * y) + cy
                if x * x + y * y > 2**16:
                    yield count
                    break
            else:
                yield 0


@pytest.mark.parametrize("region", [{}, {"re": -0.5, "im": 0, "span": 3.2}, {"re": -1.25, "im": 0, "span": 0.1}])
def test_escape_counts_are_those_of_the_definition(region):
    view = params(width=40, height=30, iterations=120, **region)
    counts = list(counts_by_hand(view))
    result = mandelbrot.run(view, mandelbrot.silent).result
    assert result["escape_sum"] == sum(counts) == sum(result["strip_sums"])
    assert result["inside"] == counts.count(0)
    assert result["inside_share"] == counts.count(0) / len(counts)


def test_the_file_is_the_picture_that_the_result_speaks_of():
    outcome = run()
    picture = pixels(outcome.artifact)
    assert outcome.artifact.media_type == "image/png"
    assert picture.shape == (70, 90, 3)
    assert hashlib.sha256(picture.tobytes()).hexdigest() == outcome.result["sha256"]
    json.dumps(outcome.result, allow_nan=False)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 3))
def test_bands_do_not_change_a_pixel(points, samples):
    view = params(samples=samples, re=-0.5, im=0, span=3)
    whole = mandelbrot.run(view, mandelbrot.silent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mandelbrot, "BAND_POINTS", points)
        assert mandelbrot.run(view, mandelbrot.silent) == whole


def test_progress_follows_the_bands_and_a_stop_gets_out(recorder, stopping, monkeypatch):
    monkeypatch.setattr(mandelbrot, "BAND_POINTS", 900)
    run(recorder)
    recorder.assert_sane()
    assert len(recorder.shares) == 7
    assert recorder.shares[-1] == 1
    stop = stopping(2)
    with pytest.raises(Stopped):
        run(stop)
    assert len(stop.shares) == 2


@given(st.floats(1, 2**40))
def test_our_logarithm_is_the_logarithm(value):
    assert mandelbrot.log2(np.array([value]))[0] == pytest.approx(np.log2(value), abs=1e-9)


def test_the_picture_is_the_same_on_every_machine():
    """A fixed sha256: arithmetic that differs by processor, NumPy or Python would show here."""
    assert run().result["sha256"] == "2fd313d98cdac5b6fecd2bae3e2606c2b91d50fa70ed641c6782d1d5d5cf7a72"


@pytest.mark.parametrize("palette", mandelbrot.PALETTES)
def test_each_palette_goes_round_without_a_seam(palette):
    steps = mandelbrot.colours(palette).astype(int)
    assert steps.shape == (mandelbrot.COLOURS, 3)
    assert np.abs(np.diff(steps, axis=0, append=steps[:1])).max() <= 3


def test_smooth_colouring_has_no_edges_between_counts():
    """Far from the set neighbouring points have neighbouring colours, also where the count changes."""
    picture = pixels(run(re=2.2, im=0, span=0.5).artifact).astype(int)
    assert np.abs(np.diff(picture, axis=1)).max() <= 8


def test_a_right_result_verifies_and_a_wrong_one_does_not():
    result = run().result
    assert mandelbrot.verify(SMALL, result)
    assert mandelbrot.verify(SMALL, result, whole=True)
    assert not mandelbrot.verify({**SMALL, "re": -0.7757}, result)
    assert not mandelbrot.verify(SMALL, {**result, "escape_sum": result["escape_sum"] + 1})
    assert not mandelbrot.verify(SMALL, {**result, "sha256": "0" * 64}, whole=True)


@pytest.mark.parametrize(
    "over", [{"width": 2049}, {"iterations": 2001}, {"span": 1e-12}, {"span": float("nan")}, {"palette": "puce"}]
)
def test_params_have_bounds(over):
    with pytest.raises(ValidationError):
        params(**over)


def test_more_work_than_a_job_may_be_is_a_sentence():
    with pytest.raises(ValidationError, match="2048 x 2048 pixels of 3 x 3 samples and 2000 iterations"):
        params(width=2048, height=2048, samples=3, iterations=2000)


@pytest.mark.parametrize("extreme", [{"width": 1, "height": 1}, {"width": 1, "height": 2048, "span": 8, "im": 3}])
def test_odd_shapes_are_pictures_too(extreme):
    json.dumps(run(**{**extreme, "iterations": 5}).result, allow_nan=False)
