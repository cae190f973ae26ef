"""How the task of a client waits: for news, and for the client's leaving."""

import asyncio
from typing import Any

import pytest

from push.answers import while_connected
from push.waking import Wake

LONG_S, SHORT_S = 20.0, 0.01
LEAVES = {"type": "websocket.disconnect"}


def test_who_waits_is_woken_once() -> None:
    async def main() -> list[bool]:
        wake = Wake()
        later = asyncio.create_task(wake.wait(LONG_S))
        await asyncio.sleep(0)
        wake.set()
        wake.set()
        seen = [await later, await wake.wait(SHORT_S)]  # it is set until it is cleared
        wake.clear()
        return [*seen, await wake.wait(SHORT_S), await wake.wait(-1)]

    assert asyncio.run(main()) == [True, True, False, False]


def test_who_has_left_wakes_nobody() -> None:
    async def main() -> bool:
        wake = Wake()
        waiting = asyncio.create_task(wake.wait(LONG_S))
        await asyncio.sleep(0)
        waiting.cancel()
        wake.set()
        await asyncio.wait([waiting])
        return waiting.cancelled()

    assert asyncio.run(main())


class Line:
    """What the client sends, and work that goes on until it is stopped."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.stopped = False

    async def work(self) -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            self.stopped = True

    def serve(self) -> "asyncio.Task[None]":
        return asyncio.create_task(while_connected(self.work(), self.coming.get))


def test_work_is_stopped_when_the_client_has_left_and_its_task_goes_on() -> None:
    async def main() -> None:
        line = Line()
        serving = line.serve()
        for message in ({"type": "websocket.receive"}, LEAVES):
            assert not line.stopped
            await line.coming.put(message)
            await asyncio.sleep(SHORT_S)
        await asyncio.wait([serving], timeout=LONG_S / 4)
        assert serving.done()
        assert line.stopped
        assert not serving.cancelling()

    asyncio.run(main())


def test_who_is_told_to_end_ends() -> None:
    async def main() -> None:
        line = Line()
        serving = line.serve()
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert line.stopped
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize(("error", "raised"), [(OSError("gone"), None), (ValueError("ours"), ValueError)])
def test_only_errors_of_the_connection_are_expected(error: Exception, raised: Any) -> None:
    async def fails() -> None:
        raise error

    async def main() -> None:
        await while_connected(fails(), Line().coming.get)

    if raised:
        with pytest.raises(raised):
            asyncio.run(main())
    else:
        asyncio.run(main())


def test_work_that_ends_as_the_client_leaves_is_not_stopped_afterwards() -> None:
    async def main() -> None:
        line = Line()

        async def work() -> None:
            await line.coming.put(LEAVES)
            await asyncio.sleep(0)

        await while_connected(work(), line.coming.get)
        await asyncio.sleep(SHORT_S)

    asyncio.run(main())
