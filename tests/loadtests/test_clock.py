"""The offset between the two clocks."""

import random

import pytest

from loadtests.clock import Clock


def test_the_offset_is_found_between_what_bounds_it():
    chance, clock, offset = random.Random(1), Clock(), 123.456
    for number in range(300):
        sent = number * 0.1
        received = sent + chance.uniform(0.005, 0.2)
        clock.bracket(sent, received, chance.uniform(sent, received) + offset)
    found = clock.offset()
    assert abs(found.seconds - offset) <= found.uncertainty < 0.01


def test_slow_answers_do_not_spoil_what_quick_ones_have_shown():
    clock = Clock()
    clock.bracket(0.0, 0.01, 0.005)
    clock.bracket(0.0, 40.0, 39.9)
    assert clock.offset().uncertainty < 0.01


def test_a_clock_that_is_set_is_measured_anew():
    clock = Clock()
    clock.bracket(0.0, 0.01, 0.005)
    clock.bracket(1.0, 1.01, 3601.005)
    assert clock.offset().seconds == pytest.approx(3600, abs=0.02)
