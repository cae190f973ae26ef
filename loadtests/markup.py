"""Words and pieces of HTML that the report is made of. Cells and bodies are HTML already; words are escaped here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape


def span(seconds: float) -> str:
    """A time, as people read it."""
    if abs(seconds) >= 9.9995:
        return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.1f} min"
    if abs(seconds) >= 0.9995:
        return f"{seconds:.2g} s" if seconds == round(seconds, 1) else f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if abs(seconds) >= 0.00995 or seconds == 0 else f"{seconds * 1000:.1f} ms"


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def share(value: float) -> str:
    return f"{value:.0%}"


def megabytes(value: float) -> str:
    return f"{value:.0f} MB" if value else "0"


def time(seconds: float) -> str:
    """As `span`, for an axis."""
    return span(seconds) if seconds else "0"


def perhaps(value: float | None, words: Callable[[float], str]) -> str:
    return "–" if value is None else words(value)


def tag(ok: bool | None, words: Mapping[bool | None, str]) -> str:
    return f'<span class="tag {({True: "ok", False: "bad", None: "none"})[ok]}">{words[ok]}</span>'


def key(name: str, of: str, look: str = "") -> str:
    style = f"border-color:{of}" if look == "dashed" else f"background:{of}"
    return f'<span class="key"><i class="{look}" style="{style}"></i>{escape(name)}</span>'


def figure(title: str, drawing: str, keys: Iterable[str] = ()) -> str:
    return f"<figure><figcaption><span>{escape(title)}</span>{''.join(keys)}</figcaption>{drawing}</figure>"


def table(head: Sequence[str], groups: Iterable[Iterable[Sequence[str]]], numeric: Iterable[int] = ()) -> str:
    """Rows in groups; cells are HTML already."""
    right = set(numeric)

    def row(cells: Sequence[str], name: str) -> str:
        marked = (f"<{name}{' class=n' if at in right else ''}>{cell}</{name}>" for at, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    bodies = "".join(f"<tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody>" for rows in groups)
    return f'<div class="scroll"><table><thead>{row(head, "th")}</thead>{bodies}</table></div>'


def section(title: str, lead: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p class=lead>{lead}</p>{body}</section>" if body else ""


def dot(of: str) -> str:
    return f'<i class="dot" style="background:{of}"></i>'


def soft(words: str) -> str:
    return f'<span class="key">{escape(words)}</span>'
