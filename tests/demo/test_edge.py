"""The demo's edge: what goes to push."""

import asyncio
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("kind", "path", "side"),
    [
        ("websocket", "/ws/jobs", "push"),
        ("http", "/api/events", "push"),
        ("http", "/api/jobs/x/events", "push"),
        ("http", "/api/events/", "web"),
        ("http", "/api/jobs", "web"),
        ("lifespan", "", "push"),
    ],
)
def test_what_follows_jobs_goes_to_push(kind: str, path: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_WEB_PORT", "1")
    from demo import edge

    went: list[str] = []
    for name, attribute in (("push", "push"), ("web", "for_web")):

        async def take(*_: Any, name: str = name) -> None:
            went.append(name)

        monkeypatch.setattr(edge, attribute, take)
    asyncio.run(edge.application({"type": kind, "path": path}, None, None))  # type: ignore[arg-type]
    assert went == [side]
