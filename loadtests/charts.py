"""Where the lines of a chart over time lie; chart.svg draws them. Charts need no script, no library and no network."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

from loadtests.words import elapsed

Point = tuple[float, float | None]
"""Seconds since the run began, and a value; None: nothing is known, and the line has a gap."""
Words = Callable[[float], str]
Mark = tuple[float, str]
"""Where a stage of the shape begins, in seconds since the run began, and its name or nothing."""
MOST_TICKS = 4


@dataclass(frozen=True)
class Series:
    """One line of a chart. `look` is a class of report.css: area, line, dashed or limit. `colour` is CSS."""

    name: str
    points: Sequence[Point]
    colour: str
    look: str = "line"


@dataclass(frozen=True)
class Path:
    """A path of SVG, with its class, style and data."""

    look: str
    style: str
    d: str


@dataclass(frozen=True)
class Box:
    """The edges of a chart (SVG's units), and of what is drawn within its labels."""

    width: int = 300
    height: int = 150
    left: int = 44
    right: int = 290
    top: int = 12
    bottom: int = 130


BOX = Box()


@dataclass(frozen=True)
class Chart:
    """What chart.svg draws."""

    name: str
    grid: list[tuple[float, str]]  # y, words
    feet: list[tuple[float, str, str]]  # x, words, text-anchor
    readings: list[tuple[float, str]]  # x, what a pointer there reads
    reading_width: float
    bands: list[Path] = field(default_factory=list)  # areas on top of each other, below the grid
    marks: list[tuple[float, str]] = field(default_factory=list)  # x, words
    lines: list[Path] = field(default_factory=list)
    dots: list[tuple[float, float, str]] = field(default_factory=list)  # x, y, colour
    box: Box = BOX


@dataclass(frozen=True)
class Frame:
    """The scales of a chart: `seconds` across, `top` upwards in steps."""

    seconds: float
    top: float
    step: float

    @classmethod
    def of(cls, seconds: float, values: Iterable[float | None]) -> Self:
        """Scales that fit some values."""
        return cls(max(seconds, 1e-9), *scale(max((value or 0.0 for value in values), default=0.0)))

    def x(self, at: float) -> float:
        return BOX.left + (BOX.right - BOX.left) * min(1.0, max(0.0, at / self.seconds))

    def y(self, value: float) -> float:
        return BOX.bottom - (BOX.bottom - BOX.top) * min(1.0, value / self.top)

    def line(self, points: Iterable[tuple[float, float]]) -> str:
        """A line through points, as a part of a path."""
        return "L".join(f"{self.x(at):.1f} {self.y(value):.1f}" for at, value in points)


def chart(series: Sequence[Series], seconds: float, words: Words, marks: Sequence[Mark] = ()) -> Chart:
    """Some series over the seconds of a run; `words` says a value."""
    frame = Frame.of(seconds, (value for one in series for _, value in one.points))
    runs = [(one, points) for one in series for points in _unbroken(one.points)]
    return replace(
        _axes(frame, series, words),
        marks=[(frame.x(at), name) for at, name in marks],
        lines=[path for one, points in runs if len(points) > 1 for path in _line(frame, one, points)],
        dots=[(frame.x(run[0][0]), frame.y(run[0][1]), one.colour) for one, run in runs if len(run) == 1],
    )


def stacked(series: Sequence[Series], seconds: float, words: Words) -> Chart:
    """Areas on top of each other; all series have the same moments, and no gaps."""
    edges = [[(at, 0.0) for at, _ in series[0].points]]
    for one in series:
        edges.append([(at, low + (value or 0.0)) for (at, low), (_, value) in zip(edges[-1], one.points, strict=True)])
    frame = Frame.of(seconds, (value for _, value in edges[-1]))
    bands = [
        Path("band", f"fill:{one.colour}", f"M{frame.line(high)}L{frame.line(reversed(low))}Z")
        for one, (low, high) in zip(series, pairwise(edges), strict=True)
    ]
    return replace(_axes(frame, series, words), bands=bands)


def _axes(frame: Frame, series: Sequence[Series], words: Words) -> Chart:
    """What every chart has: its axes, and what a pointer reads at each moment of the longest series."""
    read = [one for one in series if one.look != "limit"]
    moments = [at for at, _ in max((one.points for one in read), key=len, default=())]
    known = [(one.name, dict(one.points)) for one in read]
    feet = ((share * frame.seconds, anchor) for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")))
    return Chart(
        name=", ".join(dict.fromkeys(one.name for one in series)),
        grid=[(frame.y(at * frame.step), words(at * frame.step)) for at in range(round(frame.top / frame.step) + 1)],
        feet=[(frame.x(at), elapsed(at), anchor) for at, anchor in feet],
        readings=[(frame.x(at), _reading(at, known, words)) for at in moments] if len(moments) > 1 else [],
        reading_width=(BOX.right - BOX.left) / max(1, len(moments)),
    )


def scale(most: float) -> tuple[float, float]:
    """The top of an axis, and the step between its ticks: 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return 1.0, 1.0
    rough = most / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return math.ceil(most / step - 1e-9) * step, step


def _unbroken(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The points between the gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is not None:
            runs[-1].append((at, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _line(frame: Frame, one: Series, points: Sequence[tuple[float, float]]) -> Iterable[Path]:
    path = "M" + frame.line(points)
    if one.look == "area":
        below = frame.line([(points[-1][0], 0), (points[0][0], 0)])
        yield Path("fill", f"fill:{one.colour}", f"{path}L{below}Z")
    yield Path(one.look, f"stroke:{one.colour}", path)


def _reading(at: float, known: Sequence[tuple[str, dict[float, float | None]]], words: Words) -> str:
    found = [f"{name} {words(value)}" for name, points in known if (value := points.get(at)) is not None]
    return f"{elapsed(at)}: {', '.join(found)}"
