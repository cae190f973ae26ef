"""linkcheck: a page -> each of its links, checked side by side: one `fetch` part for each link."""

import re
import time
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urldefrag, urljoin

from pydantic import Field

from kinds import net
from kinds.base import Kind, KindFailed, Outcome, Params, Part, PartOutcome, Progress, Split, Transient
from kinds.fetch import Url

MAX_PAGE = 2 * 1024**2
MAX_LINK = 1000
MAX_ERROR = 200
READ_S = 5
"""Seconds of CPU time for finding the links; a page at MAX_PAGE takes less than one."""
HTML = ("text/html", "application/xhtml+xml")
CHARSET = re.compile(r"charset=[\"']?(utf-(?:8|16|16le|16be)|iso-8859-\d+|windows-125\d|koi8-[ru]|gb18030|big5)\b")
"""The names that a page may give for its text. Python knows more codecs, some of which are no character sets."""


class LinkcheckParams(Params):
    url: Url = "https://www.example.com/"
    limit: int = Field(50, title="Most links", description="Links beyond these are not checked.", ge=1, le=200)
    timeout_s: float = Field(10, title="Timeout", description="Seconds for the page, and for each link.", ge=0.1, le=30)


class Links(HTMLParser):
    """Collects every a[href], and the first base[href]."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(reversed(attrs)).get("href")  # of two, the first counts
        if tag == "a" and href is not None:
            self.hrefs.append(href)
        elif tag == "base" and href is not None and self.base is None:
            self.base = href


def absolute(base: str, href: str) -> str | None:
    """A link as an address to fetch, without its fragment; None when it is not one (mailto:, too long, garbage)."""
    try:
        url = urldefrag(urljoin(base, re.sub(r"[\t\r\n]", "", href.strip()))).url
    except ValueError:
        return None
    url = re.sub(r"[\s\x00-\x20\x7f]", lambda match: quote(match[0]), url)
    return url if re.match(r"(?i)https?://[^/?#]", url) and len(url) <= MAX_LINK else None


def addresses(page_url: str, parser: Links, limit: int) -> list[str]:
    """The first distinct addresses that a page links to, in its order. No more are made: with a long base each may be
    much longer than what the page has for it.
    """
    base = (absolute(page_url, parser.base) if parser.base else None) or page_url
    found: dict[str, None] = {}
    for href in parser.hrefs:
        if link := absolute(base, href):
            found[link] = None
        if len(found) == limit:
            break
    return list(found)


def parsed(text: str, progress: Progress) -> Links:
    """The links of a page's text, read in pieces.

    The parser is never closed: up to Python 3.13.5 closing looks through the rest of the page again for each tag
    or comment left open, and a hostile page (thousands of "<!--") would keep a worker's core for hours.
    """
    parser, piece, began = Links(), 65_536, time.thread_time()
    for start in range(0, len(text), piece):
        parser.feed(text[start : start + piece])
        if time.thread_time() - began > READ_S:
            raise KindFailed(f"The page's HTML is so odd that reading it takes more than {READ_S} s.")
        progress(0.5 + 0.5 * start / len(text), "Reading the page")
    return parser


def page(params: LinkcheckParams, progress: Progress) -> tuple[str, str]:
    """The page's address after redirects, and its text; raises KindFailed if it is not HTML."""
    body, limits = bytearray(), net.Limits(params.timeout_s, MAX_PAGE, redirects=5)
    answer = net.get(params.url, limits, body.extend, lambda share, note="": progress(share / 2, note))
    kind = answer.headers.get("content-type", "text/html").lower()
    if answer.status >= 500:
        raise Transient(f"The page answered {answer.status}, so its links are not known.")
    if answer.status >= 300:
        raise KindFailed(f"The page answered {answer.status}, so it has no links to check.")
    if not kind.startswith(HTML):
        raise KindFailed(f"The page is {kind[:100]}, not HTML, so it has no links to check.")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise KindFailed("The page came compressed although we asked for it plain, so its links cannot be read.")
    charset = CHARSET.search(kind)
    return answer.final_url, body.decode(charset[1] if charset else "utf-8", "replace")


def run(params: LinkcheckParams, progress: Progress) -> Outcome | Split:
    """Fetches the page and asks for a `fetch` of the headers of each link; see `report` for the result."""
    url, text = page(params, progress)
    links = addresses(url, parsed(text, progress), params.limit)
    if not links:
        return Outcome(report(params, []))
    return Split([Part("fetch", {"url": link, "timeout_s": params.timeout_s, "headers_only": True}) for link in links])


def line(part: PartOutcome) -> dict[str, Any]:
    """One link of the report: {url, ok, ms, status} or, when its fetch failed, {url, ok, ms, error}."""
    if part.result is None:
        return {"url": part.params["url"], "ok": False, "ms": None, "error": (part.error or part.state)[:MAX_ERROR]}
    status = part.result["status"]
    return {"url": part.params["url"], "ok": status < 400, "ms": part.result["total_ms"], "status": status}


def report(params: LinkcheckParams, links: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Result: page, checked, ok, broken (an error status, no answer), refused (by the guard in kinds/net.py), links."""
    lines = list(links)
    ok = sum(link["ok"] for link in lines)
    refused = sum(link.get("error", "").startswith(net.REFUSED) for link in lines)
    counts = {"checked": len(lines), "ok": ok, "broken": len(lines) - ok - refused, "refused": refused}
    return {"page": params.url, **counts, "links": lines}


def join(params: LinkcheckParams, parts: Sequence[PartOutcome], progress: Progress) -> Outcome:
    """Makes the report. A link that could not be fetched is a line of it, not a failure of the job."""
    return Outcome(report(params, [line(part) for part in parts]))


KIND = Kind(
    name="linkcheck",
    title="Check of a page's links",
    summary="Reads a page and checks all its links side by side.",
    lane="io",
    params=LinkcheckParams,
    run=run,
    join=join,
)
