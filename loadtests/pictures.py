"""Pictures of the report: headless Chromium draws it, light and dark; we cut off what is below its end."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTH, TALLEST = 1280, 9000
MARGIN = 24
PATIENCE_S = 90.0


def take(report: Path, width: int = WIDTH) -> str:
    """report.png and report-dark.png beside the report; a sentence if there are none."""
    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        return "no pictures, since there is no Chromium here"
    for theme, name in (("light", "report.png"), ("dark", "report-dark.png")):
        try:
            _take(program, report, theme, report.with_name(name), width)
        except (OSError, subprocess.SubprocessError) as error:
            return f"no pictures, since Chromium did not draw them: {error}"
    return ""


def _take(program: str, report: Path, theme: str, target: Path, width: int) -> None:
    with tempfile.TemporaryDirectory(prefix="headrace-load-") as folder:
        page, profile = Path(folder) / "report.html", Path(folder) / "profile"
        themed = report.read_text(encoding="utf-8").replace(
            '<html lang="en">', f'<html lang="en" data-theme="{theme}">', 1
        )
        page.write_text(themed, encoding="utf-8")
        size = f"--window-size={width},{TALLEST}"
        argv = [program, *FLAGS, f"--user-data-dir={profile}", size, f"--screenshot={target}", page.as_uri()]
        subprocess.run(argv, check=True, capture_output=True, timeout=PATIENCE_S)
    cut(target)


def cut(target: Path) -> None:
    """Leave off the empty part below."""
    with Image.open(target) as image:
        picture = image.convert("RGB")
    rows = np.asarray(picture)
    used = np.flatnonzero((rows != rows[-1, 0]).any(axis=(1, 2)))
    if used.size:
        picture.crop((0, 0, picture.width, min(picture.height, int(used[-1]) + MARGIN))).save(target)
