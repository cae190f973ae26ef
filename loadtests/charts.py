"""Charts over time as inline SVG, drawn here: they need no script, no library and no network, and follow the theme."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float | None]
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 20
MOST_TICKS = 4
SIZE = (300, 150)


@dataclass(frozen=True)
class Series:
    """One line of a chart. `look` is a class of report.css: area, line, dashed or limit."""

    name: str
    points: Sequence[Point]
    colour: str
    look: str = "line"


@dataclass(frozen=True)
class Frame:
    """Where things lie: seconds across, a value upwards."""

    width: int
    height: int
    seconds: float
    top: float

    def x(self, at: float) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * min(1.0, max(0.0, at / self.seconds))

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * min(1.0, value / self.top)


@dataclass(frozen=True)
class Mark:
    """Where a stage begins."""

    at: float
    name: str


def chart(
    series: Sequence[Series],
    seconds: float,
    unit: Callable[[float], str],
    marks: Sequence[Mark] = (),
    size: tuple[int, int] = SIZE,
) -> str:
    """A chart of some series over the same seconds; `unit` puts a value into words."""
    values = [value for one in series for _, value in one.points if value is not None]
    top, step = scale(max(values, default=0.0))
    frame = Frame(*size, max(seconds, 1e-9), top)
    parts = [
        *(_mark(frame, mark) for mark in marks),
        *_ticks(frame, step, unit),
        *(_drawn(frame, one) for one in series),
        *_readings(frame, series, unit),
    ]
    name = escape(", ".join(dict.fromkeys(one.name for one in series)))
    return f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{name} over time">{"".join(parts)}</svg>'


def stacked(
    series: Sequence[Series], seconds: float, unit: Callable[[float], str], size: tuple[int, int] = SIZE
) -> str:
    """Areas on top of each other; all have the same moments."""
    below = [0.0] * len(series[0].points) if series else []
    bands = []
    for one in series:
        above = [low + (value or 0.0) for low, (_, value) in zip(below, one.points, strict=True)]
        bands.append((one, below, above))
        below = above
    top, step = scale(max(below, default=0.0))
    frame = Frame(*size, max(seconds, 1e-9), top)
    areas = [_band(frame, one, low, high) for one, low, high in bands]
    parts = [*areas, *_ticks(frame, step, unit), *_readings(frame, series, unit)]
    name = escape(", ".join(one.name for one in series))
    return f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{name} over time">{"".join(parts)}</svg>'


def scale(most: float) -> tuple[float, float]:
    """The top of an axis, and the step between its ticks: 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return 1.0, 1.0
    rough = most / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return math.ceil(most / step - 1e-9) * step, step


def _ticks(frame: Frame, step: float, unit: Callable[[float], str]) -> list[str]:
    parts = []
    for number in range(round(frame.top / step) + 1):
        y = frame.y(number * step)
        right = frame.width - RIGHT
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{unit(number * step)}</text>')
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        x, words = frame.x(share * frame.seconds), seconds_words(share * frame.seconds)
        parts.append(f'<text x="{x:.1f}" y="{frame.height - 5}" text-anchor="{anchor}">{words}</text>')
    return parts


def seconds_words(seconds: float) -> str:
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f}".removesuffix(".0") + " s"


def _mark(frame: Frame, mark: Mark) -> str:
    x = frame.x(mark.at)
    line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 10}" y2="{frame.height - BOTTOM}"/>'
    return f'{line}<text class="name" x="{x + 3:.1f}" y="{TOP - 2}">{escape(mark.name)}</text>' if mark.name else line


def _drawn(frame: Frame, one: Series) -> str:
    return "".join(_run(frame, one, points) for points in _unbroken(one.points))


def _unbroken(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """Where nothing is known, the line has a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is not None:
            runs[-1].append((at, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _run(frame: Frame, one: Series, points: Sequence[tuple[float, float]]) -> str:
    places = [(frame.x(at), frame.y(value)) for at, value in points]
    if len(places) == 1:
        return (
            f'<circle class="dot" style="fill:{one.colour}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="1.8"/>'
        )
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    line = f'<path class="{one.look}" style="stroke:{one.colour}" d="{path}"/>'
    if one.look != "area":
        return line
    floor = frame.y(0)
    closed = f"{path}L{places[-1][0]:.1f} {floor:.1f}L{places[0][0]:.1f} {floor:.1f}Z"
    return f'<path class="fill" style="fill:{one.colour}" d="{closed}"/>{line}'


def _band(frame: Frame, one: Series, low: Sequence[float], high: Sequence[float]) -> str:
    if len(low) < 2:
        return ""
    moments = [at for at, _ in one.points]
    up = [f"{frame.x(at):.1f} {frame.y(value):.1f}" for at, value in zip(moments, high, strict=True)]
    down = [f"{frame.x(at):.1f} {frame.y(value):.1f}" for at, value in zip(moments, low, strict=True)]
    return f'<path class="band" style="fill:{one.colour}" d="M{"L".join(up)}L{"L".join(reversed(down))}Z"/>'


def _readings(frame: Frame, series: Sequence[Series], unit: Callable[[float], str]) -> list[str]:
    """What a pointer reads: one invisible column for each moment of the longest series."""
    moments = max((one.points for one in series if one.look != "limit"), key=len, default=())
    if len(moments) < 2:
        return []
    width = (frame.width - LEFT - RIGHT) / len(moments)
    known = [(one.name, dict(one.points)) for one in series if one.look != "limit"]
    return [_reading(frame, at, width, known, unit) for at, _ in moments]


def _reading(
    frame: Frame,
    at: float,
    width: float,
    known: Sequence[tuple[str, dict[float, float | None]]],
    unit: Callable[[float], str],
) -> str:
    found = [f"{name} {unit(value)}" for name, points in known if (value := points.get(at)) is not None]
    words = escape(f"{seconds_words(at)}: {', '.join(found)}")
    x, height = frame.x(at) - width / 2, frame.height - TOP - BOTTOM
    place = f'x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{height}"'
    return f'<rect class="read" {place}><title>{words}</title></rect>'
