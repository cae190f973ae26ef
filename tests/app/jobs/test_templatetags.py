"""What the templates make of durations and params."""

from typing import Any

import pytest

import kinds
from jobs.models import Job
from jobs.templatetags import headrace

pytestmark = pytest.mark.django_db
KINDS = sorted(name for name, kind in kinds.ALL.items() if not kind.internal)
KEY = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.012, "12 ms"),
        (0.0996, "0.10 s"),
        (1.234, "1.23 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_durations_read_well(seconds: float | None, words: str) -> None:
    assert headrace.duration(seconds) == words


@pytest.mark.parametrize(
    ("kind", "params", "words"),
    [
        ("fetch", {"timeout_s": 1, "url": "http://a.example/"}, "http://a.example/"),
        ("digest", {"text": "  two\nlines ", "top": 1}, "two lines"),
        ("digest", {"text": "x" * 300}, "x" * 90 + "…"),
        ("mandelbrot", {"re": 0.1, "width": 9, "height": 6, "palette": "ink"}, "9 × 6 px, ink palette"),
        ("burn", {"more": [2], "ms": 1.5, "seed": 1, "lane": "cpu"}, "lane cpu, ms 1.5, seed 1"),
        ("long gone", {"depth": 3}, "depth 3"),
        ("digest", {}, ""),
    ],
)
def test_gist_tells_jobs_apart(kind: str, params: dict[str, Any], words: str) -> None:
    assert headrace.gist(Job(kind=kind, params=params)) == words
