"""What a kind of work is: a params model, and a function that gets the params and a progress callback. No Django here.

Every module of this package that has a `KIND` (or `KINDS`, a list) is found; kinds/digest.py is the smallest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, model_validator


class KindFailed(Exception):
    """The work cannot be done, and trying again would not help; the text is the sentence that the user reads."""


class Transient(KindFailed):
    """The work failed for a reason that may pass (a reset connection, a 503): it is tried again, with backoff."""


class Stopped(BaseException):
    """Raised by the progress callback: the job was cancelled, or another attempt owns it.

    Not an `Exception`, so that a kind's own `except Exception` cannot swallow it.
    """


class Params(BaseModel):
    """Base of every params model: unknown fields, NaN and characters that no database can store are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=1_000_000)

    @model_validator(mode="before")
    @classmethod
    def text_is_storable(cls, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, dict) else ():
            if isinstance(value, str) and ("\x00" in value or any("\ud800" <= c <= "\udfff" for c in value)):
                raise ValueError(f"{name} holds a NUL or a lone surrogate, which cannot be stored; remove it")
        return data


class Progress(Protocol):
    """Tells how far the work is: `share` from 0 to 1, `note` a few words for the user.

    Call it between steps, as often as you like (few calls are written). In a job that is to stop it raises `Stopped`.
    """

    def __call__(self, share: float, note: str = "") -> None: ...


@dataclass(frozen=True)
class Artifact:
    """A file that a job leaves behind."""

    content: bytes
    media_type: str
    filename: str


@dataclass(frozen=True)
class Outcome:
    """What came of a job: `result` is JSON, the artifact is optional."""

    result: dict[str, Any]
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Part:
    """A child job that a kind asks for."""

    kind: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Returned by `run` to hand the work to child jobs; when all have ended, `join` makes the outcome."""

    parts: Sequence[Part]


@dataclass(frozen=True)
class PartOutcome:
    """How one part ended, in the order of `Split.parts`: its state, and its result or the reason that there is none."""

    state: str
    params: dict[str, Any]
    result: dict[str, Any] | None
    error: str
    artifact: bytes | None


Run = Callable[[Any, Progress], Outcome | Split]
Join = Callable[[Any, Sequence[PartOutcome], Progress], Outcome]


@dataclass(frozen=True)
class Kind:
    """One kind of work.

    Attributes:
        name: what clients write in `kind`; a word.
        title: a few words for people.
        summary: one sentence for people.
        lane: the lane that runs it; None: `params.lane` names it.
        params: the model of its parameters. Field titles and descriptions become labels and help on its form.
        run: the work. It may return a `Split`.
        join: makes the outcome of a split job from its parts.
        transient: exceptions, besides `Transient`, that are worth another attempt.
        short: it takes milliseconds, so that a worker may be given several jobs at once.
        internal: only other kinds may ask for it (as a part).
        synthetic: for load tests and sizing; offered only if HEADRACE_SYNTHETIC_KINDS is set.
    """

    name: str
    title: str
    summary: str
    lane: str | None
    params: type[Params]
    run: Run
    join: Join | None = None
    transient: tuple[type[Exception], ...] = field(default=())
    short: bool = False
    internal: bool = False
    synthetic: bool = False

    def lane_for(self, params: Params) -> str:
        """The lane that runs a job with these params."""
        return self.lane if self.lane is not None else str(params.lane)  # type: ignore[attr-defined]
