"""Checks the results of jobs: each kind's is compared with something that no worker made.

A check says in a few words what it has looked at, or raises WrongError.
"""

import hashlib
import io
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from demo import SITE
from kinds import burn, mandelbrot, wait
from kinds.poster import PosterParams

Json = dict[str, Any]
LINKS = {"/weir.html": 200, "/gate.html": 200, "/wheel.html": 200, "/sluice.html": 404, "/mill.svg": 200}
"""What site/index.html links to, and what serve_site.py answers; the first is a redirect to the second."""
SEAM = 96
"""Side of the square that is drawn again around a corner where four tiles of a poster meet."""


class WrongError(Exception):
    """The result is not what it should be, or there is no check for its kind."""


def expect(true: object, otherwise: str) -> None:
    """Raises WrongError unless it is true."""
    if not true:
        raise WrongError(otherwise)


def digest(job: Json, artifact: bytes, site: str) -> str:
    text = job["params"]["text"]
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    expect(job["result"]["sha256"] == sha256, f"sha256 is {job['result']['sha256']}, not {sha256}")
    expect(job["result"]["characters"] == len(text), f"{len(text)} characters were counted wrong")
    return f"sha256 {sha256[:12]}"


def picture(job: Json, artifact: bytes) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """The pixels of a job's PNG, which has the size asked for and the sha256 that the result states."""
    image = Image.open(io.BytesIO(artifact))
    expect(image.format == "PNG", f"the picture is {image.format}, not PNG")
    size = job["params"]["width"], job["params"]["height"]
    expect(image.size == size, f"the picture is {image.size}, not {size}")
    pixels = np.asarray(image.convert("RGB"))
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    expect(sha256 == job["result"]["sha256"], "the pixels are not those that the worker drew")
    return pixels


def whole_picture(job: Json, artifact: bytes, site: str) -> str:
    pixels = picture(job, artifact)
    expect(mandelbrot.verify(job["params"], job["result"]), "a strip that was computed again differs")
    return f"{pixels.shape[1]} x {pixels.shape[0]}, a strip"


def poster(job: Json, artifact: bytes, site: str) -> str:
    params, pixels = PosterParams.model_validate(job["params"]), picture(job, artifact)
    left, top = params.width // params.columns - SEAM // 2, params.height // params.rows - SEAM // 2
    again = mandelbrot.render(params, mandelbrot.Rect(left, top, SEAM, SEAM), mandelbrot.silent).pixels
    same = np.array_equal(pixels[top : top + SEAM, left : left + SEAM], again)
    expect(same, "a square across four tiles, drawn again, differs")
    return f"{params.width} x {params.height}, a seam"


def fetch(job: Json, artifact: bytes, site: str) -> str:
    result, body = job["result"], (SITE / "gate.html").read_bytes()
    hops = [{"status": 301, "url": f"{site}/weir.html"}]
    expect(result["redirects"] == hops, f"the redirects are {result['redirects']}")
    expect((result["status"], result["size"]) == (200, len(body)), f"{result['status']}, {result['size']} bytes")
    expect(result["sha256"] == hashlib.sha256(body).hexdigest(), "the sha256 is not that of the page")
    return f"{len(body)} bytes, redirected"


def linkcheck(job: Json, artifact: bytes, site: str) -> str:
    found = {urlsplit(link["url"]).path: link.get("status", link.get("error")) for link in job["result"]["links"]}
    expect(found == LINKS, f"the links are {found}")
    return f"{len(found)} links, {job['result']['broken']} broken"


def synthetic(kind: Any) -> Callable[[Json, bytes, str], str]:
    """A kind that comes with a check of its own."""

    def check(job: Json, artifact: bytes, site: str) -> str:
        expect(kind.verify(job["params"], job["result"]), "its check differs")
        return "its check"

    return check


CHECKS: dict[str, Callable[[Json, bytes, str], str]] = {
    "digest": digest,
    "mandelbrot": whole_picture,
    "poster": poster,
    "fetch": fetch,
    "linkcheck": linkcheck,
    "burn": synthetic(burn),
    "wait": synthetic(wait),
}


def check(job: Json, artifact: bytes, site: str) -> str:
    """A few words on what was verified.

    Raises:
        WrongError: it is not right; the text says what.
    """
    if job["kind"] not in CHECKS:
        raise WrongError(f"demo/checks.py has no check for {job['kind']}")
    return CHECKS[job["kind"]](job, artifact, site)
