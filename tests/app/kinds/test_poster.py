"""poster: its tiles make, pixel for pixel, the picture that one rendering makes."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from kinds import ALL, mandelbrot, poster
from kinds.base import KindFailed, PartOutcome, Stopped

SMALL = {"width": 101, "height": 67, "iterations": 150, "columns": 4, "rows": 3}


def params(**changes):
    return poster.PosterParams(**{**SMALL, **changes})


def rendered(asked):
    """Every tile of a poster, done by its own kind as the ledger would."""
    for part in poster.run(asked, mandelbrot.silent).parts:
        kind = ALL[part.kind]
        outcome = kind.run(kind.params.model_validate(part.params), mandelbrot.silent)
        yield PartOutcome("succeeded", part.params, outcome.result, "", outcome.artifact.content)


@pytest.fixture(scope="module")
def tiles():
    return list(rendered(params()))


@pytest.mark.parametrize("shape", [{}, {"columns": 16, "rows": 16}, {"samples": 3, "columns": 1}, {"samples": 1}])
def test_a_poster_equals_one_rendering(shape):
    asked = params(**shape)
    joined = poster.join(asked, list(rendered(asked)), mandelbrot.silent)
    view = mandelbrot.MandelbrotParams(**asked.model_dump(include=set(mandelbrot.View.model_fields)))
    whole = mandelbrot.run(view, mandelbrot.silent)
    one, other = (np.asarray(Image.open(io.BytesIO(outcome.artifact.content))) for outcome in (joined, whole))
    assert np.array_equal(one, other)
    for key in ("width", "height", "sha256", "iterations", "points", "inside", "inside_share", "escape_sum"):
        assert joined.result[key] == whole.result[key]
    assert joined.result["tiles"] == asked.columns * asked.rows
    json.dumps(joined.result, allow_nan=False)


@given(st.integers(64, 4096), st.integers(64, 4096), st.integers(1, 16), st.integers(1, 16))
def test_tiles_cover_the_poster_once(width, height, columns, rows):
    asked = params(width=width, height=height, columns=columns, rows=rows, iterations=1, samples=1)
    covered = np.zeros((height, width), dtype=np.uint8)
    for tile in poster.tiles(asked):
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
        assert (tile.width, tile.height) <= asked.largest_piece()
        assert tile.width > 0
        assert tile.height > 0
    assert (covered == 1).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"state": "failed", "result": None, "artifact": None, "error": "It was lost."},
            "Tile 2 of 12 failed: It was lost.",
        ),
        ({"state": "cancelled", "result": None, "artifact": None}, "Tile 2 of 12 cancelled: it left no picture"),
        ({"artifact": None}, "Tile 2 of 12 succeeded: it left no picture"),
    ],
)
def test_a_missing_tile_is_named_with_its_reason(tiles, change, sentence):
    parts = [tiles[0], replace(tiles[1], **change), *tiles[2:]]
    with pytest.raises(KindFailed) as failure:
        poster.join(params(), parts, mandelbrot.silent)
    assert str(failure.value) == sentence


def test_a_tile_that_changed_on_its_way_is_noticed(tiles):
    parts = [*tiles[:3], replace(tiles[3], artifact=tiles[7].artifact), *tiles[4:]]
    with pytest.raises(KindFailed, match="Tile 4 of 12 is not the picture"):
        poster.join(params(), parts, mandelbrot.silent)


def test_progress_of_the_join_rises_to_one_and_a_stop_gets_out(tiles, recorder, stopping):
    poster.join(params(), tiles, recorder)
    recorder.assert_sane()
    assert recorder.shares[-1] == 1
    with pytest.raises(Stopped):
        poster.join(params(), tiles, stopping(5))


def test_only_a_poster_may_ask_for_a_tile_and_each_tile_is_within_its_bounds():
    assert poster.TILE.internal
    assert not poster.POSTER.internal
    for part in poster.run(poster.PosterParams(), mandelbrot.silent).parts:
        poster.TileParams.model_validate(part.params)


@pytest.mark.parametrize(
    "over",
    [
        {"columns": 17},
        {"width": 8192, "height": 8192},
        {"width": 4096, "height": 4096, "samples": 3, "columns": 1, "rows": 1},
    ],
)
def test_a_poster_has_bounds(over):
    with pytest.raises(ValidationError):
        params(**over)


def test_a_tile_beyond_the_picture_is_refused():
    with pytest.raises(ValidationError, match="beyond"):
        poster.TileParams(width=100, height=100, left=90, top=0, tile_width=11, tile_height=1)
