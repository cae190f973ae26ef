"""fetch: an http(s) address -> what it answers. It mostly waits; what may be fetched is decided in kinds/net.py."""

import hashlib
from typing import Annotated

from pydantic import Field

from kinds import net
from kinds.base import Kind, Outcome, Params, Progress

HEADERS = (
    "content-type",
    "content-length",
    "content-encoding",
    "last-modified",
    "etag",
    "cache-control",
    "server",
    "location",
)

MAX_HEADER = 1000

Url = Annotated[
    str,
    Field(
        title="Address",
        description="An http or https address that the public can reach.",
        max_length=2048,
        pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://\S+$",
    ),
]


class FetchParams(Params):
    url: Url = "https://www.example.com/"
    timeout_s: float = Field(10, title="Timeout", description="Seconds for everything together.", ge=0.1, le=30)
    max_bytes: int = Field(
        2 * 1024**2, title="Largest body", description="Bytes; a larger body is refused.", ge=0, le=10 * 1024**2
    )
    redirects: int = Field(5, title="Redirects", description="How many to follow; 0 follows none.", ge=0, le=10)
    headers_only: bool = Field(
        False, title="Headers only", description="Ends when the headers are in; size and sha256 are then null."
    )


def run(params: FetchParams, progress: Progress) -> Outcome:
    """Fetches the address. An error status is a result, not a failure.

    Result: url, final_url, status, headers (those of HEADERS that came), size (bytes of body, as sent), sha256 (of
    the body), ttfb_ms (until the last answer's headers), total_ms, redirects (a list of {status, url}, url being
    the address that redirected). Raises what `net.get` raises.
    """
    digest = hashlib.sha256()
    limits = net.Limits(params.timeout_s, params.max_bytes, params.redirects, params.headers_only)
    answer = net.get(params.url, limits, digest.update, progress)
    return Outcome(
        {
            "url": params.url,
            "final_url": answer.final_url,
            "status": answer.status,
            "headers": {name: answer.headers[name][:MAX_HEADER] for name in HEADERS if name in answer.headers},
            "size": answer.size,
            "sha256": None if answer.size is None else digest.hexdigest(),
            "ttfb_ms": answer.ttfb_ms,
            "total_ms": answer.total_ms,
            "redirects": answer.redirects,
        }
    )


KIND = Kind(
    name="fetch",
    title="Fetch of an address",
    summary="Asks an address on the web for what it holds: status, headers, size, sha256 and times.",
    lane="io",
    params=FetchParams,
    run=run,
)
