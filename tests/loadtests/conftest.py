"""A started demo, and runs of the load test against it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.loadtests.loading import LIMITS, WORK, Demo, Load

LENIENT = {"cpu": 10.0, "delay_p99_s": 60.0}  # a noisy machine is no failure here
Against = Callable[..., Load]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo"))
    yield running
    running.stop()


@pytest.fixture
def load(demo: Demo, tmp_path: Path) -> Against:
    """Start a run of a shape against the demo."""

    def start(
        shape: dict[str, Any],
        *arguments: str,
        limits: list[dict[str, Any]] = LIMITS,
        generator: dict[str, float] = LENIENT,
        **environment: str,
    ) -> Load:
        shapes, slo, out = tmp_path / "shapes.yml", tmp_path / "slo.yml", tmp_path / "out"
        shapes.write_text(yaml.safe_dump({"work": WORK, "instead": {}, "shapes": {"test": shape}}))
        slo.write_text(yaml.safe_dump({"limits": limits, "generator": generator}))
        files = ["--shapes", str(shapes), "--slo", str(slo), "--out", str(out), "--host", demo.host, "--shape", "test"]
        return Load(out).start(*files, *arguments, **{"HEADRACE_TOKEN": demo.token, **environment})

    return start


@pytest.fixture
def stopped_io(demo: Demo) -> Iterator[None]:
    """The io lane's worker stands still; whoever asked for it lets it go on."""
    demo.signal_worker("io", signal.SIGSTOP)
    yield
    demo.signal_worker("io", signal.SIGCONT)
