"""A lane table that makes no sense is refused with a sentence that says how to mend it."""

from typing import Any

import pytest
from pydantic import ValidationError

from config import lanes


@pytest.mark.parametrize(
    ("lane", "wrong", "why"),
    [
        ("quick", {"soft_time_limit": 99, "time_limit": 99}, "soft_time_limit must be below time_limit"),
        ("quick", {"max_slots": 2}, "max_slots must be 1"),
        ("cpu", {"chunk": 2}, "chunk needs a solo pool"),
        ("io", {"chunk": 2}, "chunk needs a solo pool"),
    ],
)
def test_a_lane_that_cannot_keep_its_promises_is_refused(lane: str, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        lanes.Lane.model_validate({**lanes.load()[lane].model_dump(), **wrong})
