"""linkcheck: which links a page has, and what the report says of each."""

import gzip
import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinds import ALL, linkcheck, net
from kinds.base import KindFailed, Outcome, PartOutcome, Split, Transient
from kinds.fetch import FetchParams

PAGE = b"""<!doctype html><title>x</title>
<a href="/a">1</a> <A HREF='b?x=1&amp;y=2#top'>2</A> <a href="http://other.test/">3</a> <a href="/a#again">4</a>
<a href="mailto:x@y.test">5</a> <a href="javascript:void(0)">6</a> <a name="no">7</a> <a href="  /sp ace\n ">8</a>
<a href="//cdn.test/c">9</a> <a href="http://[">10</a> <!-- <a href="/comment"> --> <script>'<a href="/s">'</script>
<img src="/i"><link href="/l"><a href="http://user:pw@cred.test/">11</a><a href="">12</a>"""


def silent(share, note=""):
    pass


def run(url, progress=silent, **params):
    return linkcheck.run(linkcheck.LinkcheckParams(url=url, **params), progress)


def links(outcome):
    assert isinstance(outcome, Split)
    assert {part.kind for part in outcome.parts} == {"fetch"}
    return [part.params["url"] for part in outcome.parts]


def html(site, body, path="/dir/page", **headers):
    return site.page(path, body, **{"content_type": "text/html; charset=utf-8", **headers})


def test_each_link_once_absolute_and_without_its_fragment(site, recorder):
    url = html(site, PAGE)
    assert links(run(url, recorder)) == [
        f"{site.url}/a",
        f"{site.url}/dir/b?x=1&y=2",
        "http://other.test/",
        f"{site.url}/sp%20ace",
        "http://cdn.test/c",
        "http://user:pw@cred.test/",
        url,
    ]
    recorder.assert_sane()


def test_base_moves_relative_links_and_redirects_move_the_page(site):
    html(site, b"<base href='sub/'><a href='x'><base href='/no/'>", "/new/page")
    url = site.page("/old", status=301, location="/new/page")
    assert links(run(url)) == [f"{site.url}/new/sub/x"]


def test_no_more_links_than_asked_for(site):
    body = b"".join(b"<a href='/%d'>" % number for number in range(300))
    assert len(links(run(html(site, body)))) == 50
    assert len(links(run(html(site, body), limit=200))) == 200


def test_no_more_addresses_are_made_than_asked_for(monkeypatch):
    """A long base makes each as long as the base, whatever the page has for it: 150 MB of them fit in a page."""
    made = []
    monkeypatch.setattr(linkcheck, "absolute", lambda base, href: made.append(href) or base + href)
    parser = linkcheck.Links()
    parser.feed("".join(f"<a href={n}>" for n in range(1000)))
    assert len(linkcheck.addresses("http://a.test/", parser, 5)) == 5
    assert len(made) == 5


def test_a_page_without_links_is_done_at_once(site):
    outcome = run(html(site, b"<p>Nothing here"))
    assert isinstance(outcome, Outcome)
    assert outcome.result == {
        "page": f"{site.url}/dir/page", "checked": 0, "ok": 0, "broken": 0, "refused": 0, "links": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ({"status": 404}, KindFailed),
        ({"status": 503}, Transient),
        ({"content_type": "image/png"}, KindFailed),
        ({"body": gzip.compress(PAGE), "content_encoding": "gzip"}, KindFailed),
    ],
)
def test_what_is_no_page_of_html_is_a_sentence(site, page, error):
    with pytest.raises(KindFailed, match=r"^The page .*\.$") as failure:
        run(html(site, **{"body": PAGE, **page}))
    assert type(failure.value) is error


@pytest.mark.parametrize("charset", ["iso-8859-1", "utf-16", "unicode_escape", "zip", "no-such-thing", "utf-7"])
def test_any_charset_that_a_page_claims_is_survived(site, charset):
    outcome = run(html(site, "<a href='/é'>\\ud800".encode("latin-1"), content_type=f"text/html; charset={charset}"))
    assert isinstance(outcome, Split | Outcome)


@pytest.mark.parametrize("piece", ["<!--", "<a ", "<a href=x ", "<", "<a b='"])
def test_a_hostile_page_takes_no_longer_than_an_odd_one(piece, monkeypatch):
    monkeypatch.setattr(linkcheck, "READ_S", 3)
    began = time.thread_time()
    with suppress(KindFailed):
        linkcheck.parsed(piece * (400_000 // len(piece)), silent)
    assert time.thread_time() - began < 10


@given(st.text(), st.text().map("http://a.test/".__add__) | st.text())
def test_every_link_is_one_that_fetch_accepts(base, href):
    for url in (linkcheck.absolute("http://a.test/", href), linkcheck.absolute(base, href)):
        assert url is None or FetchParams(url=url)


def test_the_report_has_a_line_a_link_and_the_job_never_fails():
    params = linkcheck.LinkcheckParams(url="http://a.test/")

    def part(number, result=None, error=""):
        state = "succeeded" if result else "failed"
        return PartOutcome(state, {"url": f"http://a.test/{number}"}, result, error, None)

    parts = [
        part(1, {"status": 200, "total_ms": 1.5}),
        part(2, {"status": 404, "total_ms": 2.5}),
        part(3, error=str(net.Refused("10.0.0.5 is a private address."))),
        part(4, error="There is no host named a.test."),
        PartOutcome("cancelled", {"url": "http://a.test/5"}, None, "", None),
    ]
    result = linkcheck.join(params, parts, silent).result
    counts = {key: result[key] for key in ("page", "checked", "ok", "broken", "refused")}
    assert counts == {"page": "http://a.test/", "checked": 5, "ok": 1, "broken": 3, "refused": 1}
    assert result["links"][0] == {"url": "http://a.test/1", "ok": True, "ms": 1.5, "status": 200}
    assert result["links"][3]["error"] == "There is no host named a.test."
    assert result["links"][4]["error"] == "cancelled"
    json.dumps(result, allow_nan=False)


def test_the_largest_report_of_ascii_links_fits_in_a_result():
    long = PartOutcome("failed", {"url": "u" * linkcheck.MAX_LINK}, None, "e" * 1000, None)
    result = linkcheck.join(linkcheck.LinkcheckParams(), [long] * 200, silent).result
    assert len(json.dumps(result)) < 256_000


def test_a_page_is_checked_from_end_to_end(site):
    """Run, each part by its own kind, join: as the ledger does it."""
    site.page("/ok", b"x" * 100)
    outcome = run(html(site, b"<a href=/ok><a href=/gone><a href=http://10.0.0.5/>"))
    parts = []
    for part in outcome.parts:
        kind = ALL[part.kind]
        try:
            done = kind.run(kind.params.model_validate(part.params), silent)
            parts.append(PartOutcome("succeeded", part.params, done.result, "", None))
        except KindFailed as failure:
            parts.append(PartOutcome("failed", part.params, None, str(failure), None))
    result = linkcheck.join(linkcheck.LinkcheckParams(), parts, silent).result
    assert [result[key] for key in ("checked", "ok", "broken", "refused")] == [3, 1, 1, 1]
