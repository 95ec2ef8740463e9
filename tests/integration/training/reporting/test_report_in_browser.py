"""report.html in a browser: nothing is wider than a phone, and both themes have their colours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest
from helpers.run_folders import run_folder
from PIL import Image

from training import report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")

PHONE_PX = 390
# The page in a frame of a phone's width: a window of headless Chromium may not be as narrow as it is asked to be.
FRAME = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe width="{px}" height="3000" srcdoc="{page}"></iframe>
<pre id="found"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(each => each.open = true);
  const out = [...page.querySelectorAll("body *")].filter(
    each => !each.closest(".wide table, svg") && each.getBoundingClientRect().right > root.clientWidth + 0.5);
  const charts = [...page.querySelectorAll("figure svg")].map(each => Math.round(each.getBoundingClientRect().width));
  document.getElementById("found").textContent =
    JSON.stringify([root.clientWidth, root.scrollWidth, out.map(each => each.outerHTML.slice(0, 80)), charts]);
}});
</script>"""


def chromium(*arguments: str) -> str:
    fixed = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000"]
    done = subprocess.run([*fixed, *arguments], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [run_folder(folder / name, [20, 50, 93.5]) for name in ("one", "a_run_with_a_name_of_many_letters_" * 3)]
    assert report.main([*map(str, runs), "--out", str(folder), "--price", "2"]) == 0
    return folder / "report.html"


@pytest.mark.parametrize("px", [PHONE_PX, 1280])
def test_nothing_is_wider_than_the_screen(page: Path, tmp_path: Path, px: int) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(px=px, page=escape(page.read_text())))
    dom = chromium("--window-size=1400,3000", "--dump-dom", frame.as_uri())
    found = re.search(r'<pre id="found">\[(\d+),(\d+),(.*),\[([\d,]+)\]\]</pre>', dom)
    assert found, dom[-500:]
    assert (int(found[1]), int(found[2]), found[3]) == (px, px, "[]")
    assert all(250 < int(width) <= px for width in found[4].split(","))


def test_cut_table_scrolls_and_shows_it(page: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(
        FRAME.format(px=PHONE_PX, page=escape(page.read_text())).replace(
            "[root.clientWidth, root.scrollWidth, out.map(each => each.outerHTML.slice(0, 80)), charts]",
            "[...page.querySelectorAll('.wide')].map(each => [each.scrollWidth > each.clientWidth, "
            "page.defaultView.getComputedStyle(each).overflowX, "
            "page.defaultView.getComputedStyle(each).backgroundAttachment])",
        )
    )
    dom = chromium("--window-size=1400,3000", "--dump-dom", frame.as_uri())
    found = re.search(r'<pre id="found">(.*)</pre>', dom)
    assert found
    tables = json.loads(found[1])
    assert len(tables) == 4  # epochs and phases of two runs
    assert all(table == [True, "auto", "local, local, scroll, scroll"] for table in tables)


def brightness(picture: Path) -> list[int]:
    """Of the background at the left edge, and of the brightest and the darkest pixel."""
    with Image.open(picture) as image:
        grey = image.convert("L")
        return [grey.getpixel((2, 2)), *reversed(grey.getextrema())]


def test_light_and_dark_theme_have_their_colours(page: Path, tmp_path: Path) -> None:
    shots = {}
    for name, setting in (("light", 1), ("dark", 0)):
        shots[name] = tmp_path / f"{name}.png"
        theme = f"--blink-settings=preferredColorScheme={setting}"
        chromium("--window-size=1280,1800", theme, f"--screenshot={shots[name]}", page.as_uri())
    ground, brightest, darkest = brightness(shots["light"])
    assert ground > 230
    assert darkest < 60
    ground, brightest, darkest = brightness(shots["dark"])
    assert ground < 40
    assert brightest > 200
