"""Numbers in words, for the report."""

from collections.abc import Callable


def span(seconds: float) -> str:
    """A time, with as many digits as people read."""
    if abs(seconds) >= 9.9995:
        return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.1f} min"
    if abs(seconds) >= 0.9995:
        return f"{seconds:.2g} s" if seconds == round(seconds, 1) else f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if abs(seconds) >= 0.00995 or seconds == 0 else f"{seconds * 1000:.1f} ms"


def tick(seconds: float) -> str:
    """A time on the upright axis of a chart."""
    return span(seconds) if seconds else "0"


def elapsed(seconds: float) -> str:
    """A time since the run began."""
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f}".removesuffix(".0") + " s"


def number(value: float) -> str:
    """A count or a rate."""
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def share(value: float) -> str:
    """A share of 1."""
    return f"{value:.0%}"


def megabytes(value: float) -> str:
    """A size in MiB."""
    return f"{value:.0f} MB" if value else "0"


def perhaps(words: Callable[[float], str]) -> Callable[[float | None], str]:
    """The same, with a dash for what is not known."""
    return lambda value: "–" if value is None else words(value)
