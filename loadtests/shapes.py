"""Reads and checks shapes.yml: the pieces of work, the shapes, and which of their stages runs when."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from loadtests import HERE, LoadError

BOOK = HERE / "shapes.yml"
Way = Literal["single", "keyed", "batch", "poll"]
Share = float | dict[str, float]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Work(Strict):
    """A piece of work; shapes.yml explains each field."""

    kind: str
    lane: str
    params: dict[str, Any]
    cost_s: PositiveFloat


class Stage(Strict):
    """One stage of a shape."""

    name: str
    seconds: PositiveFloat
    users: PositiveInt | None = None
    spawn_rate: PositiveFloat = 1
    load: Share | None = None
    rate: Share | None = None

    def of(self, lane: str) -> tuple[float | None, float | None]:
        """One lane's load and rate, each None if the stage does not give it."""
        return _of(self.load, lane), _of(self.rate, lane)


def _of(share: Share | None, lane: str) -> float | None:
    return share.get(lane, 0.0) if isinstance(share, dict) else share


class Shape(Strict):
    """One shape."""

    summary: str
    model: Literal["closed", "open"]
    work: dict[str, PositiveFloat] = Field(min_length=1)
    ways: dict[Way, PositiveFloat] = Field(min_length=1)
    batch_size: PositiveInt = 5
    pause_s: float = Field(0, ge=0)
    poll_s: PositiveFloat = 0.5
    deadline_s: PositiveFloat
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def stages_fit_the_model(self) -> Self:
        if self.model == "open" and "batch" in self.ways:
            raise ValueError("an open shape has no batches, since its jobs arrive one by one; leave `batch` out")
        for stage in self.stages:
            given = {name for name in ("users", "load", "rate") if getattr(stage, name) is not None}
            right = given == {"users"} if self.model == "closed" else given in ({"load"}, {"rate"})
            if not right:
                wanted = "users" if self.model == "closed" else "either load or rate"
                raise ValueError(f"the stage {stage.name!r} of a {self.model} shape needs {wanted}")
        return self

    @property
    def seconds(self) -> float:
        """The length of all its stages."""
        return sum(stage.seconds for stage in self.stages)

    def stage_at(self, elapsed: float) -> Stage | None:
        """The stage that runs at `elapsed` seconds; None after the last."""
        for stage in self.stages:
            elapsed -= stage.seconds
            if elapsed < 0:
                return stage
        return None

    def changed(self, stretch: float, scale: float) -> Self:
        """The shape with the length of every stage, and its users, loads and rates, multiplied."""
        stages = [stage.model_copy(update=_more(stage, stretch, scale)) for stage in self.stages]
        return self.model_copy(update={"stages": stages})


def _more(stage: Stage, stretch: float, scale: float) -> dict[str, Any]:
    users = max(1, round(stage.users * scale)) if stage.users else None
    return {
        "seconds": stage.seconds * stretch,
        "users": users,
        "load": _times(stage.load, scale),
        "rate": _times(stage.rate, scale),
    }


def _times(share: Share | None, scale: float) -> Share | None:
    if isinstance(share, dict):
        return {lane: value * scale for lane, value in share.items()}
    return None if share is None else share * scale


class Book(Strict):
    """The whole file."""

    work: dict[str, Work]
    instead: dict[str, str]
    shapes: dict[str, Shape]

    @model_validator(mode="after")
    def names_are_known(self) -> Self:
        named = {name: f"the shape {shape}" for shape, one in self.shapes.items() for name in one.work}
        named |= dict.fromkeys(self.instead.values(), "instead")
        for name, where in named.items():
            if name not in self.work:
                raise ValueError(f"{where} names the work {name!r}, which is not under `work`")
        return self

    def shape(self, name: str) -> Shape:
        """A shape by name.

        Raises:
            LoadError: there is none of that name.
        """
        if name not in self.shapes:
            raise LoadError(f"There is no shape {name!r}; choose one of {', '.join(self.shapes)}.")
        return self.shapes[name]


def arrivals(spans: Iterable[tuple[float, float]], first: float) -> Iterator[float]:
    """Moments of a rate that is constant within each span, in seconds from the first span's start.

    `spans` are seconds and jobs a second; `first` is the share of a gap that precedes the first job. What is left of a
    gap at the end of a span continues in the next one, so a slow span does not delay the first job of a quick one.
    """
    start, gap = 0.0, first
    for seconds, rate in spans:
        at = 0.0
        while rate > 0 and at + gap / rate < seconds:
            at, gap = at + gap / rate, 1.0
            yield start + at
        gap -= (seconds - at) * rate
        start += seconds


def read(path: Path = BOOK) -> Book:
    """The shapes of a file.

    Raises:
        LoadError: it is not there, is not YAML, or a value in it makes no sense.
    """
    return checked(path, Book)


Model = TypeVar("Model", bound=BaseModel)


def checked(path: Path, model: type[Model]) -> Model:
    """A YAML file as a model of ours.

    Raises:
        LoadError: one sentence that names the file and the place.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise LoadError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top level"
        raise LoadError(f"{path.name} is wrong at {where}: {first['msg'].removeprefix('Value error, ')}.") from error
