"""The report: one HTML file that needs no other, from report.html and chart.svg, and pictures of it by Chromium.

`python -m loadtests.report FOLDER` draws it again from the run.json of an earlier run.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageChops

from loadtests import APP, HERE, drawings, words
from loadtests.facts import Facts, Host, Summary, read

COLOURS = APP / "jobs" / "static" / "jobs" / "headrace.css"
STAGES = {"submit": "--submit", "queue wait": "--span-wait", "run": "--span-run", "notify": "--span-notify"}

TEMPLATES = Environment(
    loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters |= {"span": words.perhaps(words.span), "number": words.number, "share": words.perhaps(words.share)}


def page(facts: Facts) -> str:
    """The whole file."""
    return TEMPLATES.get_template("report.html").render(
        facts=facts,
        colours=colours(),
        colour=partial(drawings.colour, facts),
        lane_figures=partial(drawings.lane_figures, facts),
        machine_figures=drawings.machine_figures(facts),
        bar=bar,
        busy=busy(facts.host),
    )


def colours() -> str:
    """The colours of the application, the first block of its style sheet."""
    text = COLOURS.read_text(encoding="utf-8")
    start = text.index(":root")
    return text[start : text.index("}", start) + 1]


def bar(stages: dict[str, Summary], percentile: str) -> list[tuple[str, float, float, str]]:
    """The parts of a bar: stage, its percentile in seconds, its share of all in percent, and its colour."""
    values = {stage: max(0.0, getattr(stages[stage], percentile)) for stage in STAGES}
    whole = sum(values.values()) or 1.0
    return [(stage, value, value / whole * 100, STAGES[stage]) for stage, value in values.items()]


def busy(host: Host) -> tuple[float, float] | None:
    """Cores in use on average, of the whole host and by Headrace: another user of the cores explains a lot."""
    if not host.samples:
        return None
    number = len(host.samples)
    ours = sum(sum(one.cpu.values()) for one in host.samples)
    return sum(one.busy for one in host.samples) / number, ours / number


def write(facts: Facts, folder: Path, pictures: bool) -> str:
    """Write the report and, if wanted, its pictures; why there are none, or nothing."""
    target = folder / "report.html"
    target.write_text(page(facts), encoding="utf-8")
    return take(target) if pictures else ""


CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTH, TALLEST, MARGIN = 1280, 9000, 24  # pixels
TIMEOUT_S = 90.0


def take(report: Path) -> str:
    """Make report.png and report-dark.png beside the report; why there are none, or nothing."""
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        return "no pictures, since there is no Chromium here"
    for theme, name in (("light", "report.png"), ("dark", "report-dark.png")):
        try:
            _take(program, report, theme, report.with_name(name))
        except (OSError, subprocess.SubprocessError) as error:
            return f"no pictures, since Chromium did not draw them: {error}"
    return ""


def _take(program: str, report: Path, theme: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="headrace-load-") as folder:
        themed, profile = Path(folder) / "report.html", Path(folder) / "profile"
        text, tag = report.read_text(encoding="utf-8"), '<html lang="en"'
        themed.write_text(text.replace(tag, f'{tag} data-theme="{theme}"', 1), encoding="utf-8")
        size = f"--window-size={WIDTH},{TALLEST}"
        argv = [program, *FLAGS, f"--user-data-dir={profile}", size, f"--screenshot={target}", themed.as_uri()]
        subprocess.run(argv, check=True, capture_output=True, timeout=TIMEOUT_S)
    cut(target)


def cut(target: Path) -> None:
    """Cut off the empty part below the end of the page."""
    with Image.open(target) as image:
        picture = image.convert("RGB")
    empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    if used := ImageChops.difference(picture, empty).getbbox():
        picture.crop((0, 0, picture.width, min(picture.height, used[3] - 1 + MARGIN))).save(target)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(write(read(where / "run.json"), where, pictures=True) or where / "report.html")
