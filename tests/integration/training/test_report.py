"""The report of runs whose numbers are known: what is printed and which files are written."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.recipes import RECIPES
from helpers.run_folders import run_folder
from PIL import Image

from training import report
from training.reporting import charts


class NestingChecker(HTMLParser):
    """Fails on elements that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = run_folder(tmp_path / "fast", [50, 80, 92.9, 93, 95])
    slow = run_folder(tmp_path / r"slow <b> $\frac$", [40, 60], argv=["--run.seed=7"])
    out = tmp_path / "new" / "out"
    assert report.main([str(fast), str(slow), "--out", str(out), "--price", "2.5"]) == 0
    printed = capsys.readouterr().out
    assert "    4   0.4000   73.000   93.000   1.7500  0.500000     7000  128" in printed.splitlines()
    # 8 GPUs for 0.4 h until epoch 4, for 0.5 h in all.
    assert "0.4000 h, after epoch 4" in printed
    assert "8.00 to 93 %, 10.00 in all, at 2.5 per GPU-hour" in printed
    assert "95.000 %, epoch 5" in printed
    html = (out / "report.html").read_text()
    checker = NestingChecker()
    checker.feed(html)
    assert not checker.open
    text = unescape(re.sub("<[^>]+>", "", html))
    assert "8 × NVIDIA TITAN RTX, driver 580.65; AMD EPYC 7742, 48 cores, 504 GiB" in text
    assert r"fast: 0; slow <b> $\frac$: 7" in text
    assert "slow <b>" in text
    assert html.count("<svg") == len(charts.CHARTS)
    ids = re.findall(r"""\sid=["']([^"']+)""", html)
    assert len(ids) == len(set(ids)) > 0
    addresses = re.findall(r"""\s(?:src|href|xlink:href)=["']([^"']*)""", html)
    assert all(address.startswith("#") and address[1:] in ids for address in addresses)
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    with Image.open(out / "curves.png") as picture:
        assert picture.width > picture.height > 1000
    assert not list(tmp_path.rglob("*.partial"))


def test_report_is_written_into_the_first_run_folder(tmp_path: Path) -> None:
    first, second = (run_folder(tmp_path / name, [1, 2]) for name in ("a", "b"))
    assert report.main([str(first), str(second)]) == 0
    assert {path.parent for path in tmp_path.rglob("report.html")} == {first}
    assert (first / "curves.png").is_file()


def test_differing_phases_are_a_table(tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / "a", [1, 2]), run_folder(tmp_path / "b", [1, 2], argv=["-C", str(RECIPES["h200"])])]
    assert report.main([str(run) for run in runs]) == 0
    html = (tmp_path / "a/report.html").read_text()
    differing = html.partition("Phases that differ")[2].partition("<h2>")[0]
    rows = [re.findall("<td>([^<]*)</td>", row) for row in re.findall("<tr.*?</tr>", differing)]
    # The second phase of titan8 and of h200, from their files.
    assert ["14-25", "224", "224", "320", "0.087", "squares of 224 px from 320"] in [row[:6] for row in rows]
    assert ["14-25", "224", "1024", "320", "0.087", "squares of 224 px from 320"] in [row[:6] for row in rows]
    assert "{&quot;" not in html
    assert "batch_per_gpu" not in html
    assert "n/a" in html.partition("<h2>Epochs</h2>")[2]  # their validation loss


def test_more_runs_than_can_be_drawn_are_taken_of_one_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        run_folder(tmp_path / f"run{seed}", [*[50] * 27, 93 + seed / 10], argv=[f"--run.seed={seed}"])
        for seed in range(7)
    ]
    assert report.main([str(folder) for folder in folders]) == 0
    printed = capsys.readouterr().out
    assert "7 runs of one recipe" in printed
    assert re.search(r"93 % in the last epoch +7 of 7, 100 %", printed)
    assert "run6" in printed
    assert printed.endswith("both draw the first 6 runs\n")
    assert "<h2>7 runs of one recipe</h2>" in (folders[0] / "report.html").read_text()
