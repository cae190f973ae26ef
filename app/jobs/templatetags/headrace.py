"""How the pages show durations, sizes, params and results.

Results in the ledger may be older than the code: a filter that gets something else than a number shows a dash.
"""

from datetime import datetime
from typing import Any, TypeGuard

from django import template
from django.conf import settings
from django.utils import timezone

import kinds
from jobs.models import Job, State, seconds_between

register = template.Library()
LETTERS_OF_A_GIST = 90
NOTHING = "–"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)


@register.filter
def duration(seconds: float | None) -> str:
    """Seconds in a unit that people read at a glance; live.js has the same function."""
    if not _is_number(seconds):
        return NOTHING
    if seconds < 0.00005:
        return "0 ms"
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@register.filter
def ago(moment: datetime | None) -> str:
    """How long ago, roughly; the exact time belongs in a title beside it."""
    if moment is None:
        return NOTHING
    seconds = (timezone.now() - moment).total_seconds()
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (7 * 86400, 86400, "d")):
        if seconds < limit:
            return "just now" if seconds < 5 else f"{int(seconds / size)} {unit} ago"
    return f"{moment:%d %b %Y}"


@register.filter
def size(count: int | None) -> str:
    """Bytes for people."""
    if not _is_number(count):
        return NOTHING
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


@register.filter
def number(value: float | None) -> str:
    """A number with a thin space between its thousands."""
    if not _is_number(value):
        return NOTHING
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.12g}"


@register.filter
def percent(share: float) -> str:
    """A share as a whole percentage; 100 only when it is all."""
    return f"{int(share * 100)}%"


@register.filter
def fine_percent(share: float) -> str:
    """A share as the width of a bar, wide enough to be seen unless it is 0."""
    return f"{max(share * 100, 0.6 if share else 0):.2f}%"


@register.filter
def hundredths(share: float | None) -> str:
    """A share as a percentage with two decimals."""
    return f"{share * 100:.2f}%" if _is_number(share) else NOTHING


@register.filter
def milliseconds(count: float | None) -> str:
    """Milliseconds as a duration."""
    return duration(count / 1000 if _is_number(count) else None)


@register.filter
def grow(value: float | None) -> str:
    """A number for a style or an attribute, with a decimal point in every language; empty for None."""
    return "" if value is None else f"{value:.4f}"


@register.filter
def microseconds(seconds: float) -> str:
    """Seconds as a flex-grow; in microseconds, because values that sum to less than 1 would leave the bar unfilled."""
    return f"{seconds * 1e6:.0f}"


@register.filter
def words(name: str) -> str:
    """A key of a result as a label: "top_words" becomes "Top words"."""
    return name.replace("_", " ").strip().capitalize()


@register.filter
def shape(value: Any) -> str:
    """How to show a piece of a result: as text, number, yes or no, facts, table or list."""
    if isinstance(value, list):
        rows = value and all(isinstance(row, dict) for row in value)
        return "table" if rows else "list"
    shapes: dict[type, str] = {dict: "facts", bool: "flag", int: "number", float: "number", str: "text"}
    return shapes.get(type(value), "nothing")


@register.filter
def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every key of a table's rows, in the order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


@register.filter
def get(mapping: dict[str, Any], key: str) -> Any:
    """The value of a key that is itself a variable."""
    return mapping.get(key)


@register.filter
def kind_title(name: str) -> str:
    """A kind's title, or its name where it has since been taken out of the application."""
    return kinds.ALL[name].title if name in kinds.ALL else name


@register.filter
def pool_of(lane: str | None) -> str:
    """The pool of a lane."""
    return settings.LANES[lane].pool if lane in settings.LANES.lanes else ""


@register.filter
def asked(job: Job) -> dict[str, Any]:
    """A job's params in the order of its form; databases keep them in an order of their own."""
    order = list(kinds.ALL[job.kind].params.model_fields) if job.kind in kinds.ALL else []
    return {name: job.params[name] for name in [*order, *job.params] if name in job.params}


@register.filter
def gist(job: Job) -> str:
    """What tells this job from others of its kind, in a few words."""
    params = asked(job)
    for name in ("url", "text"):
        if params.get(name):
            flat = " ".join(str(params[name])[: 4 * LETTERS_OF_A_GIST].split())
            return flat[:LETTERS_OF_A_GIST] + ("…" if len(flat) > LETTERS_OF_A_GIST else "")
    if "width" in params and "height" in params:
        about = [f"{params['width']} × {params['height']} px"]
        return ", ".join(about + [f"{params[name]} {name}" for name in ("iterations", "palette") if name in params])
    some = [(name, value) for name, value in params.items() if isinstance(value, str | int | float)][:3]
    return ", ".join(f"{name} {value if isinstance(value, str) else number(value)}" for name, value in some)[:200]


# ---- the timing bar -------------------------------------------------------------------------------------------------


@register.filter
def stretches(job: Any) -> list[dict[str, Any]]:
    """The parts of the timing bar; the one in progress lasts until `job.now`, the database's clock, and is `growing`.

    A job that was queued again waits anew, from when it is due; one that only joins its parts still runs.
    """
    until = job.finished_at or job.now
    started = None if job.state == State.QUEUED and not job.joining else job.started_at
    wait, run = seconds_between(job.due_at, started or until), seconds_between(started, until)
    notify = job.timings["notify"]
    return [
        {"name": "wait", "label": "Queue wait", "seconds": wait, "growing": not job.finished and run is None},
        {"name": "run", "label": "Run", "seconds": run, "growing": not job.finished and run is not None},
        {"name": "notify", "label": "Notify", "seconds": notify, "growing": False},
    ]


@register.filter
def total(spans: list[dict[str, Any]]) -> float:
    """Seconds of all stretches together."""
    return sum(span["seconds"] or 0.0 for span in spans)


@register.filter
def doing(job: Job) -> str:
    """One line on what is happening to an open job."""
    if job.cancel_requested:
        return "Stopping"
    if job.open_parts:
        return f"{job.parts_total - job.open_parts} of {job.parts_total} parts are done"
    if job.state == State.QUEUED:
        return job.note[:1].upper() + job.note[1:] if job.note else f"Waiting for a free slot in the {job.lane} lane"
    return job.note or "Working"
