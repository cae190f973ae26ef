"""When the jobs of an open shape arrive."""

from itertools import pairwise

import pytest

from loadtests import shapes


def test_arrivals_keep_the_rate_whatever_the_stages():
    moments = list(shapes.arrivals([(10, 2), (5, 0), (10, 8)], 0.5))
    assert sum(at < 10 for at in moments) == 20
    assert not [at for at in moments if 10 <= at < 15]
    assert sum(at >= 15 for at in moments) == 80
    assert moments == sorted(moments)


def test_a_slow_stage_does_not_hide_the_quick_one_after_it():
    moments = list(shapes.arrivals([(10, 0.05), (10, 5)], 1.0))
    assert len(moments) == 50
    assert 10 < moments[0] < 10.2
    assert all(later - earlier == pytest.approx(0.2) for earlier, later in pairwise(moments))
