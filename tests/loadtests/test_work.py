"""Which work a run submits, and how results are compared."""

import pytest

from loadtests import LoadError, shapes, work

OFFERED = {"digest": "quick", "mandelbrot": "cpu", "fetch": "io"}
LANES = {"cpu", "io", "quick"}


def test_where_synthetic_kinds_are_off_a_lane_gets_a_real_one():
    book, page = shapes.read(), work.Page("http://127.0.0.1:9/", 1, "0")
    chosen = work.choose(book, book.shape("smoke"), OFFERED, LANES, page)
    assert {piece.work.kind for piece in chosen} == {"digest", "mandelbrot", "fetch"}
    with pytest.raises(LoadError, match="needs a page to fetch"):
        work.choose(book, book.shape("smoke"), OFFERED, LANES, None)


def test_equal_results_have_equal_fingerprints_and_others_have_not():
    assert work.fingerprint({"a": [1, {"b": 2}], "c": None}) == work.fingerprint({"c": None, "a": [1, {"b": 2}]})
    assert work.fingerprint({"a": 1}) != work.fingerprint({"a": "1"})
