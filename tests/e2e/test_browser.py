"""The pages in a real Chromium, before the whole application: what only a browser can show."""

import contextlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import Browser, BrowserContext, Page, WebSocketRoute, expect, sync_playwright

from harness import APP, BIN, ROOT
from harness.processes import Process
from harness.waiting import free_port, wait_until
from jobs import services
from jobs.models import Job, State
from jobs.submit import Submission, submit
from jobs.templatetags.headrace import duration

PASSWORD = uuid.uuid4().hex
SCREENSHOTS = ROOT / "var" / "screenshots"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MANDELBROT = {"width": "1400", "height": "900"}
SECONDS = 60_000

pytestmark = pytest.mark.django_db(transaction=True)


def is_up(address: str) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return httpx2.get(f"{address}/login/").status_code == 200
    return False


@pytest.fixture(scope="module")
def site(django_db_setup: None, process_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The web tier on one port, as users see it: pages, static files, WebSockets."""
    inner, outer, logs = free_port(), free_port(), tmp_path_factory.mktemp("site")
    web = ["gunicorn", "config.wsgi", "-k", "gthread", "--threads", "4", "-b", f"127.0.0.1:{inner}"]
    front = ["gunicorn", "-k", "asgi", "demo.edge:application", "-b", f"127.0.0.1:{outer}"]
    env = {**process_env, "DEMO_WEB_PORT": str(inner)}
    processes = [
        Process(name, [str(BIN / argv[0]), *argv[1:]], logs / f"{name}.log", cwd=APP, env=env)
        for name, argv in (("web", web), ("edge", front))
    ]
    address = f"http://127.0.0.1:{outer}"
    try:
        wait_until(lambda: all(one.alive() for one in processes) and is_up(address), why="the web tier answers")
        yield address
    finally:
        for one in processes:
            one.stop()


@pytest.fixture
def ada(transactional_db: None) -> Any:
    return get_user_model().objects.create_user("ada", password=PASSWORD)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("Chromium is not installed; run `make test`, or `apt install chromium` first.")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright's loop runs in this thread; so do our queries
        running = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield running
        running.close()


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, site: str, ada: Any) -> Iterator[Visit]:
    """A signed-in page; whatever its console complains about fails the test."""
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def start(sign_in: bool = True, **options: Any) -> Page:
        context = browser.new_context(base_url=site, **{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("console", lambda one: complaints.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/login/")
        if sign_in:
            page.get_by_label("Username").fill("ada")
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/")
        return page

    expect.set_options(timeout=SECONDS)
    yield start
    for context in contexts:
        context.close()
    assert complaints == []


def submit_form(page: Page, kind: str, **values: str) -> None:
    page.goto(f"/new/{kind}/")
    for name, value in values.items():
        page.locator(f"[name={name}]").fill(value)
    page.get_by_role("button", name="Start the job").click()
    page.wait_for_url("**/jobs/*/")


def state_of(page: Page) -> Any:
    return page.locator(".badge.big")


REMEMBER = """() => {
  window.shares = [];
  const look = () => {
    const bar = document.querySelector("[role=progressbar]");
    if (bar) window.shares.push(Number(bar.getAttribute("aria-valuenow")));
  };
  look();
  const all = {subtree: true, childList: true, attributes: true};
  new MutationObserver(look).observe(document.getElementById("job"), all);
}"""


def test_from_sign_in_to_the_picture(visit: Visit, start_worker: Any, sweeper: Any) -> None:
    start_worker("cpu")
    page = visit()
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.get_by_role("link", name="Start the first one").click()
    page.get_by_role("link", name="Mandelbrot picture").click()
    for name, value in MANDELBROT.items():
        page.locator(f"[name={name}]").fill(value)
    page.get_by_role("button", name="Start the job").dblclick()
    page.wait_for_url("**/jobs/*/")
    assert Job.objects.count() == 1
    page.evaluate(REMEMBER)

    expect(state_of(page)).to_have_text("Succeeded")
    shares = page.evaluate("window.shares")
    assert len(set(shares)) >= 4
    assert shares == sorted(shares)
    assert page.evaluate("performance.getEntriesByType('navigation').length") == 1

    picture = page.get_by_role("img", name="Mandelbrot picture")
    expect(picture).to_be_visible()
    wait_until(lambda: picture.evaluate("image => image.complete"), why="the picture has loaded")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1400, 900]

    expect(page.locator("[data-span=notify] dd")).to_have_text(re.compile(r"\d m?s"))
    job = Job.objects.get()
    widths = {name: page.locator(f".timing .span-{name}").bounding_box()["width"] for name in ("wait", "run", "notify")}
    assert widths["run"] / sum(widths.values()) == pytest.approx(
        job.timings["run"] / sum(job.timings.values()), abs=0.05
    )
    expect(page.locator("[data-span=run] dd")).to_have_text(duration(job.timings["run"]))


def test_fleet_and_cancel(visit: Visit, start_worker: Any, sweeper: Any) -> None:
    start_worker("cpu", slots=2)
    page = visit()
    submit_form(page, "wait", ms="120000")
    waits_in = Job.objects.get().lane
    fleet = page.context.new_page()
    fleet.goto("/fleet/")
    lanes = fleet.locator("[data-lane]")
    expect(lanes).to_have_count(3)
    cpu = fleet.locator("[data-lane=cpu]")
    expect(cpu.locator("[data-worker=cpu-1]")).to_contain_text("0 of 2 slots busy")
    expect(fleet.locator(f"[data-lane={waits_in}]")).to_contain_text("1 queued job and no worker")

    [(job, _)] = submit(Job.objects.get().owner_id, [Submission("wait", {"lane": "cpu", "ms": 120_000})])
    expect(cpu.locator("[data-worker=cpu-1]")).to_contain_text("1 of 2 slots busy")
    expect(cpu.locator(".slots .busy")).to_have_count(1)
    page.goto(f"/jobs/{job.pk}/")
    expect(state_of(page)).to_have_text("Running")
    page.get_by_role("button", name="Cancel").click()
    expect(state_of(page)).to_have_text("Cancelled")
    expect(cpu.locator("[data-worker=cpu-1]")).to_contain_text("0 of 2 slots busy")


def test_lost_connection_is_said_and_mended(visit: Visit, start_worker: Any) -> None:
    page = visit()
    connections: list[WebSocketRoute] = []

    def broken_at_first(route: WebSocketRoute) -> None:
        connections.append(route)
        if len(connections) <= 3:
            route.close(code=1011)
        else:
            route.connect_to_server()

    page.route_web_socket(re.compile(r"/ws/"), broken_at_first)
    submit_form(page, "digest", text="One brook, two brooks.")
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#lost")).to_be_hidden()
    assert len(connections) == 4
    expect(state_of(page)).to_have_text("Queued")
    start_worker("quick")
    expect(state_of(page)).to_have_text("Succeeded")
    expect(page.get_by_text("Most frequent words")).to_be_visible()


def test_lists_and_jobs_need_no_scripts(visit: Visit, start_worker: Any) -> None:
    page = visit(java_script_enabled=False)
    submit_form(page, "digest", text="No scripts here.")
    expect(state_of(page)).to_have_text("Queued")
    start_worker("quick")
    expect(state_of(page)).to_have_text("Succeeded")  # the page asks for itself again
    page.goto("/")
    expect(page.get_by_role("link", name="Digest of a text")).to_be_visible()


def test_list_keeps_itself_current_and_leaves_the_focus_alone(visit: Visit, start_worker: Any, ada: Any) -> None:
    page = visit()
    jobs = [job for job, _ in submit(ada.pk, [Submission("digest", {})] * 2)]
    page.reload()
    link = page.locator(f"[data-key='{jobs[0].pk}'] a")
    link.focus()
    start_worker("quick")
    [(later, _)] = submit(ada.pk, [Submission("digest", {"text": "later"})])
    expect(page.locator(f"[data-key='{later.pk}'] .badge")).to_have_text("Succeeded")
    expect(page.locator(".badge.succeeded")).to_have_count(3)
    expect(link).to_be_focused()


def told_by_its_socket(page: Page) -> list[str]:
    """Load the list again, until its socket is open; returns the pieces that it asks for from then on."""
    asked: list[str] = []
    frames: list[int] = []
    page.on("request", lambda one: asked.append(one.url) if one.url.endswith("/jobs/live") else None)
    page.on("websocket", lambda one: one.on("framereceived", lambda _: frames.append(1)))
    page.reload()
    wait_until(lambda: page.evaluate("1") and frames, why="the socket is open")
    page.wait_for_timeout(2_000)  # then the page looks once
    assert asked
    asked.clear()
    return asked


def ended_elsewhere(ada: Any) -> Any:
    [(job, _)] = submit(ada.pk, [Submission("digest", {"text": "elsewhere"})])
    claim = services.claim(job.pk, "quick-1@host", "solo")
    assert claim
    services.succeed(claim, {})
    return job


def test_list_asks_only_when_it_is_told_of_a_change(visit: Visit, ada: Any) -> None:
    submit(ada.pk, [Submission("digest", {})])
    page = visit()
    expect(page.locator("[data-open]")).to_have_count(1)
    asked = told_by_its_socket(page)
    page.wait_for_timeout(6_000)
    assert asked == []
    job = ended_elsewhere(ada)
    expect(page.locator(f"[data-key='{job.pk}'] .badge")).to_have_text("Succeeded", timeout=20_000)
    assert 1 <= len(asked) <= 3


@pytest.mark.parametrize(("code", "for_good"), [(4403, True), (1011, False)])
def test_list_without_a_socket_keeps_itself_current(visit: Visit, ada: Any, code: int, for_good: bool) -> None:
    page = visit()
    refused: list[WebSocketRoute] = []

    def refuse(route: WebSocketRoute) -> None:
        refused.append(route)
        route.close(code=code)

    page.route_web_socket(re.compile(r"/ws/jobs$"), refuse)
    page.reload()
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    job = ended_elsewhere(ada)
    expect(page.locator(f"[data-key='{job.pk}'] .badge")).to_have_text("Succeeded", timeout=30_000)
    assert (len(refused) == 1) is for_good


def test_hidden_list_asks_nothing_until_it_is_seen(visit: Visit, ada: Any) -> None:
    page = visit()
    asked = told_by_its_socket(page)
    show = "hidden => { window.is_hidden = hidden; document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => window.is_hidden})")
    page.evaluate(show, True)
    job = ended_elsewhere(ada)
    page.wait_for_timeout(2_000)
    assert asked == []
    page.evaluate(show, False)
    expect(page.locator(f"[data-key='{job.pk}'] .badge")).to_have_text("Succeeded", timeout=20_000)


def test_scripts_say_durations_as_the_server_does(visit: Visit) -> None:
    page = visit()
    seconds = [0, 0.0004, 0.00994, 0.012, 0.0996, 1.234, 9.994, 12.34, 59.94, 59.96, 125, 3599.6, 7380]
    assert page.evaluate("all => all.map(headrace.duration)", seconds) == [duration(one) for one in seconds]


def test_theme_is_the_systems_until_it_is_chosen(visit: Visit) -> None:
    page = visit(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Light").click()
    light = page.evaluate(ground)
    assert light != dark
    page.goto("/fleet/")
    assert page.evaluate(ground) == light
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Auto").click()
    assert page.evaluate(ground) == dark


# ---- how it looks ---------------------------------------------------------------------------------------------------

FAINT = """() => {
  const numbers = (color) => {
    const found = color.match(/[\\d.]+/g).map(Number);
    return color.startsWith("color(") ? [...found.slice(0, 3).map((n) => n * 255), found[3] ?? 1] : [...found, 1];
  };
  const light = ([r, g, b]) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => {
    const c = [r, g, b][i] / 255;
    return sum + share * (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = numbers(getComputedStyle(one).backgroundColor);
      if (color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    const style = getComputedStyle(element);
    if (!text || !element.checkVisibility() || element.closest(".unseen, svg, .mosaic")) continue;
    const [a, b] = [light(numbers(style.color)), light(ground(element))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) faint.push(`${text.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""


@pytest.fixture
def some_jobs(ada: Any, start_worker: Any) -> dict[str, Job]:
    """Jobs of every state, made by real workers where they end well."""
    start_worker("cpu")
    start_worker("quick")
    wanted = {
        "mandelbrot": Submission("mandelbrot", {"width": 640, "height": 400, "samples": 1}),
        "poster": Submission("poster", {"width": 640, "height": 480, "samples": 1, "columns": 4, "rows": 3}),
        "digest": Submission("digest", {}),
        "queued": Submission("fetch", {"url": f"https://www.example.com/{'very-long-' * 20}"}),
    }
    jobs = {name: submit(ada.pk, [one])[0][0] for name, one in wanted.items()}
    done = Job.objects.filter(owner=ada, state=State.SUCCEEDED, parent=None)
    wait_until(lambda: done.count() == 3, 60, "the workers are done")
    [(failed, _)] = submit(ada.pk, [Submission("linkcheck", {})])
    Job.objects.filter(pk=failed.pk).update(
        state=State.FAILED, error="The page answered 404.", finished_at=failed.created_at
    )
    return jobs | {"failed": failed}


def look_at(page: Page, name: str, width: int) -> list[str]:
    """Leave a screenshot; what is wrong with how the page looks."""
    wait_until(lambda: page.evaluate("[...document.images].every(image => image.complete)"), why="pictures are there")
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    too_wide = page.evaluate("document.documentElement.scrollWidth") - width
    faint = [f"{name}: too faint: {one}" for one in page.evaluate(FAINT)]
    return faint + ([f"{name}: {too_wide} px too wide"] if too_wide > 0 else [])


def test_pages_fit_and_can_be_read(visit: Visit, some_jobs: dict[str, Job]) -> None:
    """On a phone and on a desk, light and dark. The screenshots are for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    pages = {"list": "/", "new": "/new/", "form": "/new/mandelbrot/", "form-digest": "/new/digest/", "fleet": "/fleet/"}
    pages |= {f"job-{name}": f"/jobs/{job.pk}/" for name, job in some_jobs.items()} | {"menu": "/"}
    wrong: list[str] = []
    for shape, viewport in (("wide", WIDE), ("phone", PHONE)):
        for scheme in ("light", "dark"):
            look = {"viewport": viewport, "color_scheme": scheme, "reduced_motion": "reduce"}
            outside, inside = visit(sign_in=False, **look), visit(**look)
            wrong += look_at(outside, f"sign-in-{shape}-{scheme}", viewport["width"])
            for name, path in pages.items():
                inside.goto(path)
                if name == "menu":
                    inside.locator(".menu summary").click()
                wrong += look_at(inside, f"{name}-{shape}-{scheme}", viewport["width"])
    assert wrong == []
