"""The params of the jobs that are submitted, no two alike, and the check of their results."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kinds import burn, digest, mandelbrot, wait
from loadtests import LoadError
from loadtests.shapes import Book, Shape, Work

Json = dict[str, Any]
Offered = Mapping[str, str | None]
"""The kinds that the server offers, each with its lane; None: the params name the lane."""
WORDS = ["water", "wheel", "weir", "sluice", "gate", "race", "mill", "pond", "leat", "flume", "tailrace", "spillway"]


@dataclass(frozen=True)
class Piece:
    """A piece of work that this run submits, and how often in relation to the others."""

    name: str
    work: Work
    weight: float

    @property
    def lane(self) -> str:
        return self.work.lane

    def submission(self, chance: random.Random) -> Json:
        """The body of a submit, with params of its own."""
        return {"kind": self.work.kind, "params": self.work.params | varied(self.work.kind, chance)}


def varied(kind: str, chance: random.Random) -> Json:
    """The part of the params that differs from job to job."""
    if kind in ("burn", "wait"):
        return {"seed": chance.getrandbits(48)}
    if kind == "digest":
        return {"text": " ".join(chance.choices(WORDS, k=60))}
    if kind == "mandelbrot":
        return {"re": -0.7757 + chance.uniform(-1e-3, 1e-3), "im": 0.1365 + chance.uniform(-1e-3, 1e-3)}
    return {}


@dataclass(frozen=True)
class Page:
    """The page that `fetch` jobs are given, and what it held when the run began; `size` is in bytes."""

    url: str
    size: int
    sha256: str


def wrong(kind: str, params: Json, result: Json, page: Page | None) -> str:
    """Why a result is not right, in a few words; empty if it is right."""
    try:
        right = _right(kind, params, result, page)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, IndexError) as error:
        return f"it cannot be checked: {type(error).__name__} {error}"
    return "" if right else f"it is not the right {kind}"


def _right(kind: str, params: Json, result: Json, page: Page | None) -> bool:
    if kind == "fetch":
        return page is not None and (result["size"], result["sha256"]) == (page.size, page.sha256)
    return VERIFY[kind](params, result)


VERIFY = {"burn": burn.verify, "wait": wait.verify, "digest": digest.verify, "mandelbrot": mandelbrot.verify}


def fingerprint(result: Any) -> str:
    """A hash of a result that does not depend on the order of its fields."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def choose(book: Book, shape: Shape, offered: Offered, lanes: set[str], page: Page | None) -> list[Piece]:
    """The pieces of a shape whose kinds the server offers; a lane that is left with none gets its `instead`.

    Raises:
        LoadError: no piece is left for a lane, or a kind goes to another lane than the shape says.
    """
    pieces = [Piece(name, book.work[name], weight) for name, weight in shape.work.items()]
    wanted = [piece for piece in pieces if piece.lane in lanes]
    found = [piece for piece in wanted if piece.work.kind in offered]
    for lane in sorted({piece.lane for piece in wanted} - {piece.lane for piece in found}):
        found.append(_instead(book, lane, offered))
    for piece in found:
        _check(piece, offered, page)
    if not found:
        raise LoadError(f"The shape has no work for the lanes {', '.join(sorted(lanes))}.")
    return [_at(piece, page) for piece in found]


def _instead(book: Book, lane: str, offered: Offered) -> Piece:
    name = book.instead.get(lane)
    if name is None or book.work[name].kind not in offered:
        raise LoadError(
            f"The server offers no work for the {lane} lane: turn its synthetic kinds on (HEADRACE_SYNTHETIC_KINDS=1), "
            "or leave the lane out with --lanes."
        )
    return Piece(name, book.work[name], 1)


def _check(piece: Piece, offered: Offered, page: Page | None) -> None:
    lane = offered[piece.work.kind]
    if lane not in (None, piece.lane):
        raise LoadError(f"The work {piece.name} is for the {piece.lane} lane, but the server runs it on {lane}.")
    if piece.work.kind == "fetch" and page is None:
        raise LoadError(
            f"The {piece.lane} lane needs a page to fetch, since the server's synthetic kinds are off: name one that "
            "it may reach with --fetch, or leave the lane out with --lanes."
        )
    if piece.work.kind not in (*VERIFY, "fetch"):
        raise LoadError(f"There is no check of the results of the kind {piece.work.kind}; see loadtests/work.py.")


def _at(piece: Piece, page: Page | None) -> Piece:
    if piece.work.kind != "fetch" or page is None:
        return piece
    return Piece(piece.name, piece.work.model_copy(update={"params": {"url": page.url}}), piece.weight)
