"""poster: one large picture of the Mandelbrot set, in tiles that are jobs of their own, stitched when all have ended.

The functions that draw a whole picture draw the tiles, so the poster equals one rendering pixel for pixel.
"""

import hashlib
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

from PIL import Image
from pydantic import Field, model_validator

from kinds.base import Artifact, Kind, KindFailed, Outcome, Part, PartOutcome, Progress, Split
from kinds.mandelbrot import Palette, Rect, View, facts, png, render

MAX_PIXELS = 4096 * 4096
"""Of a poster: raw (4 bytes a pixel), its tiles and the finished file must fit in one slot's memory together."""


class PosterParams(View):
    re: float = Field(-0.74366, title="Centre, real", description="Real part of the centre.", ge=-3, le=3)
    im: float = Field(0.1319, title="Centre, imaginary", description="Imaginary part of the centre.", ge=-3, le=3)
    span: float = Field(
        0.00073,
        title="Width of the region",
        description="From left edge to right edge; smaller is deeper.",
        ge=1e-11,
        le=8,
    )
    width: int = Field(1600, title="Width", description="Pixels from left to right.", ge=64, le=8192)
    height: int = Field(1200, title="Height", description="Pixels from top to bottom.", ge=64, le=8192)
    palette: Palette = Field("orchid", title="Palette", description="The colours.")
    columns: int = Field(4, title="Tiles across", description="Columns of tiles.", ge=1, le=16)
    rows: int = Field(3, title="Tiles down", description="Rows of tiles.", ge=1, le=16)

    def largest_piece(self) -> tuple[int, int]:
        return -(-self.width // self.columns), -(-self.height // self.rows)

    @model_validator(mode="after")
    def size_is_bounded(self) -> Self:
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(f"{self.width} x {self.height} pixels are more than {MAX_PIXELS:,}; make one side shorter")
        return self


class TileParams(View):
    left: int = Field(title="Left", description="First column of pixels.", ge=0, le=8191)
    top: int = Field(title="Top", description="First row of pixels.", ge=0, le=8191)
    tile_width: int = Field(title="Tile width", description="Pixels from left to right.", ge=1, le=8192)
    tile_height: int = Field(title="Tile height", description="Pixels from top to bottom.", ge=1, le=8192)

    def largest_piece(self) -> tuple[int, int]:
        return self.tile_width, self.tile_height

    @model_validator(mode="after")
    def tile_is_within(self) -> Self:
        if self.left + self.tile_width > self.width or self.top + self.tile_height > self.height:
            raise ValueError("the tile reaches beyond the picture")
        return self


def tiles(params: PosterParams) -> list[Rect]:
    """The poster's tiles, row by row; they cover it without a gap and differ by at most a pixel in size."""
    xs = [column * params.width // params.columns for column in range(params.columns + 1)]
    ys = [row * params.height // params.rows for row in range(params.rows + 1)]
    return [Rect(left, top, right - left, bottom - top) for top, bottom in pairwise(ys) for left, right in pairwise(xs)]


def run(params: PosterParams, progress: Progress) -> Split:
    """Asks for one `tile` for each rectangle; see `join` for the result."""
    view = params.model_dump(include=set(View.model_fields))
    return Split(
        [
            Part("tile", {**view, "left": t.left, "top": t.top, "tile_width": t.width, "tile_height": t.height})
            for t in tiles(params)
        ]
    )


def run_tile(params: TileParams, progress: Progress) -> Outcome:
    """Renders one tile: the facts of its own pixels, and where it belongs."""
    rect = Rect(params.left, params.top, params.tile_width, params.tile_height)
    rendering = render(params, rect, progress)
    result = facts(params, rendering) | {"left": rect.left, "top": rect.top}
    return Outcome(
        result, Artifact(png(Image.fromarray(rendering.pixels)), "image/png", f"tile-{rect.left}-{rect.top}.png")
    )


def picture_of(part: PartOutcome, number: int, total: int) -> Image.Image:
    """The picture of a finished tile; raises KindFailed with the sentence that says why there is none."""
    if part.result is None or part.artifact is None:
        raise KindFailed(f"Tile {number} of {total} {part.state}: {part.error or 'it left no picture'}")
    picture = Image.open(io.BytesIO(part.artifact)).convert("RGB")
    if hashlib.sha256(picture.tobytes()).hexdigest() != part.result["sha256"]:
        raise KindFailed(f"Tile {number} of {total} is not the picture that its worker rendered: its sha256 differs.")
    return picture


def join(params: PosterParams, parts: Sequence[PartOutcome], progress: Progress) -> Outcome:
    """Stitches the tiles to one PNG. Result: as mandelbrot's (without strip_sums), and `tiles`."""
    canvas = Image.new("RGB", (params.width, params.height))
    for number, (rect, part) in enumerate(zip(tiles(params), parts, strict=True), start=1):
        canvas.paste(picture_of(part, number, len(parts)), (rect.left, rect.top))
        progress(0.8 * number / len(parts), f"{number} of {len(parts)} tiles")
    file = png(canvas)
    progress(1, "Stitched")
    return Outcome(summary(canvas, params.iterations, parts), Artifact(file, "image/png", "poster.png"))


def sha256_of(canvas: Image.Image, rows: int = 256) -> str:
    """Of the RGB bytes, some rows at a time: a second copy of a large picture would not fit in a slot's memory."""
    digest = hashlib.sha256()
    for top in range(0, canvas.height, rows):
        digest.update(canvas.crop((0, top, canvas.width, min(top + rows, canvas.height))).tobytes())
    return digest.hexdigest()


def summary(canvas: Image.Image, iterations: int, parts: Sequence[PartOutcome]) -> dict[str, Any]:
    """The poster's result: its own sha256, and the sums over its tiles."""
    sums = {key: sum(part.result[key] for part in parts if part.result) for key in ("points", "inside", "escape_sum")}
    return {
        "width": canvas.width,
        "height": canvas.height,
        "sha256": sha256_of(canvas),
        "iterations": iterations,
        **sums,
        "inside_share": sums["inside"] / sums["points"],
        "tiles": len(parts),
    }


POSTER = Kind(
    name="poster",
    title="Mandelbrot poster",
    summary="Draws one large picture in tiles, side by side on all workers, and stitches them.",
    lane="cpu",
    params=PosterParams,
    run=run,
    join=join,
)
TILE = Kind(
    name="tile",
    title="Tile of a poster",
    summary="Draws one rectangle of a larger picture.",
    lane="cpu",
    params=TileParams,
    run=run_tile,
    internal=True,
)
KINDS = [POSTER, TILE]
