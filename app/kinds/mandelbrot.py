"""mandelbrot: a region of the Mandelbrot set -> a PNG. Heavy on one core; its arithmetic also draws the poster's tiles.

Every step is a separate float64 operation that IEEE 754 rounds in one way only (+ - * / and comparisons, no fused
multiply-add, no library logarithm), so the same params give the same pixels on every machine, in bands of any
height and in tiles of any size: a client can recompute them.

The zoom limit is float64's: near |c| = 1 neighbouring numbers are 2.2e-16 apart, so a picture 2048 pixels wide still
has some twenty numbers a pixel at a span of 1e-11. Smaller spans are refused; they would show blocks.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, model_validator

from kinds.base import Artifact, Kind, Outcome, Params, Progress

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Palette = Literal["tailrace", "ember", "orchid", "moss", "ink"]

ESCAPE_LOG2 = 16.0
"""log2 of |z|^2 beyond which a point has escaped; far beyond 4, because that gives smoother colours."""
BAND_POINTS = 65_536
"""Points computed at once: few enough for the processor's cache, many enough to hide NumPy's cost per call."""
STRIPS = 16
MAX_WORK = 20_000_000_000
"""Iterations of one picture when nothing escapes: minutes on one core, and well inside the lane's time limit."""
COLOURS = 4096
GONE = -1

# Colours at even steps around a cycle; the colour of points inside comes first.
PALETTES: dict[Palette, str] = {
    "tailrace": "02060f 03122e 07306b 0f66b0 4fb3e0 d9f4f7 fff6d8 f7c25a c96f1a 5a2413 150a1c",
    "ember": "050203 14040a 4a0a17 a31d16 e85d0f ffb930 fff3c4 f3a26b 93405a 331744 0d0718",
    "orchid": "07030f 1a0b38 4b1d82 9a3cb4 ee7fb2 ffd9d2 fff7ea a9e1e0 3f93b5 1d3f7a 0e1238",
    "moss": "030806 0a1f17 14503a 3f8f4f a9cf5c f6f5bd fdfbf0 cfe3d4 6fa7a0 2a5a66 0c2029",
    "ink": "08080a 1b1b20 45454d 83838c c4c3c4 f7f5f0 f7f5f0 bdbabb 77767f 3b3a44 141318",
}


class View(Params):
    """The region, its size in pixels and its colours: shared by whole pictures, posters and their tiles."""

    re: float = Field(-0.77568377, title="Centre, real", description="Real part of the centre.", ge=-3, le=3)
    im: float = Field(0.13646737, title="Centre, imaginary", description="Imaginary part of the centre.", ge=-3, le=3)
    span: float = Field(
        0.0008,
        title="Width of the region",
        description="From left edge to right edge; smaller is deeper.",
        ge=1e-11,
        le=8,
    )
    width: int = Field(960, title="Width", description="Pixels from left to right.", ge=1, le=8192)
    height: int = Field(600, title="Height", description="Pixels from top to bottom.", ge=1, le=8192)
    iterations: int = Field(
        600, title="Iterations", description="Points that have not escaped by then count as inside.", ge=1, le=2000
    )
    samples: int = Field(
        2, title="Samples", description="Points per pixel, along each side: 1 is quick, 2 and 3 are smooth.", ge=1, le=3
    )
    palette: Palette = Field("tailrace", title="Palette", description="The colours.")

    def largest_piece(self) -> tuple[int, int]:
        """Width and height in pixels of the largest piece that one job renders."""
        return self.width, self.height

    @model_validator(mode="after")
    def work_is_bounded(self) -> Self:
        width, height = self.largest_piece()
        work = width * height * self.samples**2 * self.iterations
        if work > MAX_WORK:
            raise ValueError(
                f"{width} x {height} pixels of {self.samples} x {self.samples} samples and {self.iterations} "
                f"iterations are {work / 1e9:.1f} thousand million steps for one job; {MAX_WORK / 1e9:.0f} is the most"
            )
        return self


class MandelbrotParams(View):
    width: int = Field(960, title="Width", description="Pixels from left to right.", ge=1, le=2048)
    height: int = Field(600, title="Height", description="Pixels from top to bottom.", ge=1, le=2048)


@dataclass(frozen=True)
class Rect:
    """A rectangle of pixels of a picture; `left` and `top` count from its upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Rendering:
    """Pixels (height, width, 3), and for each row the sum of escape counts and the number of points inside."""

    pixels: Pixels
    row_sums: Ints
    row_inside: Ints


def log2(values: Floats) -> Floats:
    """log2 of positive numbers, to about 1e-10, from exactly rounded operations only.

    NumPy's own differs in the last bit from processor to processor, and a last bit can be a pixel. The series is
    ln m = 2 artanh s, s = (m - 1) / (m + 1) (Abramowitz & Stegun 4.1.27), with m within sqrt(2) of 1.
    """
    mantissa, exponent = np.frexp(values)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2, mantissa)
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    series = np.zeros_like(s)
    for odd in range(11, 0, -2):
        series = series * square + 1 / odd
    log: Floats = (exponent - low) + series * s * 2.8853900817779268  # 2 / ln 2
    return log


@cache
def colours(palette: Palette) -> Pixels:
    """The palette as COLOURS smooth steps of a cycle: a Catmull-Rom spline through its colours."""
    stops = np.array([list(bytes.fromhex(colour)) for colour in PALETTES[palette].split()], dtype=np.float64)
    position = np.arange(COLOURS) * len(stops) / COLOURS
    index = position.astype(np.int64)
    t = (position - index)[:, None]
    before, here, after, beyond = (stops[(index + shift) % len(stops)] for shift in (-1, 0, 1, 2))
    bend = 2 * before - 5 * here + 4 * after - beyond
    twist = 3 * (here - after) + beyond - before
    spline = here + 0.5 * t * ((after - before) + t * (bend + t * twist))
    return np.clip(spline + 0.5, 0, 255).astype(np.uint8)


def axes(view: View, rect: Rect) -> tuple[Floats, Floats]:
    """Real parts of the rectangle's columns of points and imaginary parts of its rows.

    Counted from the whole picture's corner, so that a point is the same number in whatever piece it is computed.
    """
    n, pitch = view.samples, view.span / (view.width * view.samples)
    columns = np.arange(rect.left * n, (rect.left + rect.width) * n, dtype=np.float64) + 0.5 - view.width * n / 2
    rows = np.arange(rect.top * n, (rect.top + rect.height) * n, dtype=np.float64) + 0.5 - view.height * n / 2
    return view.re + columns * pitch, view.im - rows * pitch


def known_inside(cx: Floats, cy: Floats) -> npt.NDArray[np.bool_]:
    """Points of the main cardioid and the disc left of it, which need no iterating (their equations are exact)."""
    x, yy = cx - 0.25, cy * cy
    q = x * x + yy
    return (q * (q + x) <= 0.25 * yy) | ((cx + 1) * (cx + 1) + yy <= 0.0625)


def step(orbit: Floats) -> None:
    """One z = z^2 + c in place. Rows of `orbit`: x, y, their squares, the sum of these, and c's two parts."""
    x, y, xx, yy, size, cx, cy = orbit
    np.multiply(x, y, out=y)
    np.add(y, y, out=y)
    np.add(y, cy, out=y)
    np.subtract(xx, yy, out=x)
    np.add(x, cx, out=x)
    np.multiply(x, x, out=xx)
    np.multiply(y, y, out=yy)
    np.add(xx, yy, out=size)


def escape(cx: Floats, cy: Floats, iterations: int) -> tuple[Ints, Floats]:
    """Iterates z = z^2 + c from 0: for each point the number of steps until it escapes, and |z|^2 at that step.

    Points that do not escape have the count 0.
    """
    counts, sizes = np.zeros(cx.size, dtype=np.int64), np.ones(cx.size)
    place = np.flatnonzero(~known_inside(cx, cy))
    orbit = np.zeros((7, place.size))
    orbit[5:] = cx[place], cy[place]
    for count in range(1, iterations + 1):
        step(orbit)
        gone = (orbit[4] > 2.0**ESCAPE_LOG2).nonzero()[0]
        if not gone.size:
            continue
        counts[place[gone]], sizes[place[gone]] = count, orbit[4, gone]
        place[gone], orbit[:, gone] = GONE, 0  # with c = 0 they stay at 0, so the arrays need not shrink at every step
        if 4 * np.count_nonzero(place == GONE) > place.size:
            keep = np.flatnonzero(place != GONE)
            place, orbit = place[keep], orbit[:, keep]
        if not place.size:
            break
    return counts, sizes


def shade(counts: Ints, sizes: Floats, palette: Palette) -> Pixels:
    """Colours points by their smooth escape count n + 1 - log2(log |z| / log R), R the escape radius.

    The formula is the normalised iteration count of Peitgen & Richter, The Beauty of Fractals (1986). Its logarithm
    goes around the palette, so that colours change as slowly deep in a spiral as at its rim.
    """
    table = colours(palette)
    smooth = counts + 1 - log2(np.maximum(log2(sizes), ESCAPE_LOG2) / ESCAPE_LOG2)
    turn = log2(smooth + 4) * 0.62 - 1.62
    return np.where((counts > 0)[..., None], table[(turn * COLOURS).astype(np.int64) % COLOURS], table[0])


def render_rows(view: View, rect: Rect) -> Rendering:
    """Renders a rectangle at once: its samples, then each pixel as the rounded mean of its own."""
    n = view.samples
    cx, cy = np.meshgrid(*axes(view, rect))
    counts, sizes = escape(cx.ravel(), cy.ravel(), view.iterations)
    samples = shade(counts, sizes, view.palette).reshape(rect.height, n, rect.width, n, 3)
    pixels = (samples.sum(axis=(1, 3), dtype=np.int64) + n * n // 2) // (n * n)
    rows = counts.reshape(rect.height, -1)
    return Rendering(pixels.astype(np.uint8), rows.sum(axis=1), (rows == 0).sum(axis=1))


def bands(view: View, rect: Rect) -> Iterator[Rect]:
    """Cuts a rectangle into bands of whole rows, of about BAND_POINTS points."""
    rows = max(1, BAND_POINTS // (rect.width * view.samples**2))
    for top in range(0, rect.height, rows):
        yield Rect(rect.left, rect.top + top, rect.width, min(rows, rect.height - top))


def render(view: View, rect: Rect, progress: Progress) -> Rendering:
    """Renders a rectangle of a picture band by band, telling the progress after each."""
    done: list[Rendering] = []
    for band in bands(view, rect):
        done.append(render_rows(view, band))
        rows = band.top + band.height - rect.top
        progress(rows / rect.height, f"{rows} of {rect.height} rows")
    return Rendering(
        np.concatenate([part.pixels for part in done]),
        np.concatenate([part.row_sums for part in done]),
        np.concatenate([part.row_inside for part in done]),
    )


def strips(height: int) -> list[tuple[int, int]]:
    """First row and end row of STRIPS (or fewer) strips of a picture, so that a client may recompute just one."""
    number = min(STRIPS, height)
    return [(strip * height // number, (strip + 1) * height // number) for strip in range(number)]


def facts(view: View, rendering: Rendering) -> dict[str, Any]:
    """The result of a rendering, as JSON. Escape counts are summed over all samples; points inside count nothing."""
    height, width, _ = rendering.pixels.shape
    points, inside = width * height * view.samples**2, int(rendering.row_inside.sum())
    return {
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(rendering.pixels.tobytes()).hexdigest(),
        "iterations": view.iterations,
        "points": points,
        "inside": inside,
        "inside_share": inside / points,
        "escape_sum": int(rendering.row_sums.sum()),
        "strip_sums": [int(rendering.row_sums[first:end].sum()) for first, end in strips(height)],
    }


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def run(params: MandelbrotParams, progress: Progress) -> Outcome:
    """Renders the region; see `facts` for the result, `View` for the params."""
    rendering = render(params, Rect(0, 0, params.width, params.height), progress)
    return Outcome(
        facts(params, rendering), Artifact(png(Image.fromarray(rendering.pixels)), "image/png", "mandelbrot.png")
    )


def silent(share: float, note: str = "") -> None:
    """A progress callback that does nothing."""


def verify(params: dict[str, Any], result: dict[str, Any], whole: bool = False) -> bool:
    """Whether a result is the right one: recomputes one of its strips (picked by its sha256), or the whole picture."""
    view = MandelbrotParams.model_validate(params)
    if whole:
        return run(view, silent).result == result
    number = int(result["sha256"], 16) % len(result["strip_sums"])
    first, end = strips(view.height)[number]
    strip = render(view, Rect(0, first, view.width, end - first), silent)
    sums = result["strip_sums"]
    return sum(sums) == result["escape_sum"] and bool(sums[number] == strip.row_sums.sum())


KIND = Kind(
    name="mandelbrot",
    title="Mandelbrot picture",
    summary="Draws a region of the Mandelbrot set as a PNG, smoothly coloured.",
    lane="cpu",
    params=MandelbrotParams,
    run=run,
)
