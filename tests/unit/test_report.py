"""The report of runs whose numbers are known: what it says, what it writes, and what it refuses."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.run_folders import ROOT, SESSION, rows, run_folder
from PIL import Image

from training import report
from training.reporting import charts, report_html
from training.reporting.plotting import PAGE
from training.reporting.run_folder import PUBLISHED, published, read_runs, summary
from training.runlog.epoch_table import read_epochs, write_epochs


class Checked(HTMLParser):
    """Fails on elements that do not close in order; keeps ids, addresses and text."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.ids += [value for key, value in values.items() if key == "id" and value]
        self.addresses += [value for key, value in values.items() if key in ("src", "href", "xlink:href") and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(html: str) -> Checked:
    found = Checked()
    found.feed(html)
    assert not found.open
    return found


def test_report_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = run_folder(tmp_path / "fast", [50, 80, 92.9, 93, 95])
    slow = run_folder(tmp_path / "slow <b>", [40, 60], argv=["--run.seed=7"])
    out = tmp_path / "new" / "out"
    assert report.main([str(fast), str(slow), "--out", str(out), "--price", "2.5"]) == 0
    printed = capsys.readouterr().out
    assert "    4   0.4000  73.0000  93.0000   1.7500  0.500000     7000  128" in printed.splitlines()
    # 8 GPUs for 0.4 h until epoch 4, for 0.5 h in all.
    assert "0.4000 h, after epoch 4" in printed
    assert "8.00 to 93 %, 10.00 in all, at 2.5 per GPU-hour" in printed
    assert "95.0000 %, epoch 5" in printed
    html = (out / "report.html").read_text()
    found = checked(html)
    said = "".join(found.text)
    assert "8 × NVIDIA TITAN RTX, driver 580.65; AMD EPYC 7742, 48 cores, 504 GiB" in said
    assert "fast: 0; slow <b>: 7" in said
    assert "slow <b>" in said
    assert html.count("<svg") == len(charts.CHARTS)
    assert len(found.ids) == len(set(found.ids))
    assert all(address.startswith("#") and address[1:] in found.ids for address in found.addresses)
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    with Image.open(out / "curves.png") as picture:
        assert picture.width > picture.height > 1000
    assert not list(tmp_path.rglob("*.partial"))


def test_report_goes_into_the_first_run(tmp_path: Path) -> None:
    first, second = (run_folder(tmp_path / name, [1, 2]) for name in ("a", "b"))
    assert report.main([str(first), str(second)]) == 0
    assert {path.parent for path in tmp_path.rglob("report.html")} == {first}
    assert (first / "curves.png").is_file()


def test_every_colour_of_the_page_follows_its_theme(tmp_path: Path) -> None:
    runs = read_runs([run_folder(tmp_path / str(i), [30 + i, 60]) for i in range(charts.MAX_RUNS)])
    html = report_html.page(runs, None)
    body = html.partition("</style>")[2]
    assert not re.findall(r"#[0-9a-f]{6}\b", body)
    assert not any(colour in html for colour in (PAGE.ink, PAGE.grid, *PAGE.series))
    used, known = set(re.findall(r"var\(--([a-z0-9-]+)\)", html)), set(re.findall(r"--([a-z0-9-]+):", html))
    assert used <= known
    # Every variable has a value in the light and one in the dark.
    dark = html.partition("prefers-color-scheme: dark")[2]
    assert all(f"--{name}: #" in dark.partition("}")[0] for name in used - {"tone"})


def test_a_chart_holds_what_was_recorded(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50, 80, 93])])
    for number, expected in ((0, [50, 80, 93]), (2, [7, 3.5, 7 / 3]), (5, [4096] * 3), (7, [0.5, 1, 1.5])):
        _, (axes,) = charts.figure(4, 3)
        charts.draw(axes, charts.CHARTS[number], [run], published(), PAGE)
        ours = [line for line in axes.get_lines() if line.get_color() == PAGE.series[0]]
        assert list(ours[0].get_ydata()) == pytest.approx(expected, rel=1e-6)
    _, (axes,) = charts.figure(4, 3)
    charts.draw(axes, charts.CHARTS[0], [run], published(), PAGE)
    behind = [line for line in axes.get_lines() if line.get_color() == PAGE.published]
    assert [max(line.get_ydata()) for line in behind] == [93.0179, 75.9179]
    assert behind[0].get_xdata()[-1] == 2.3657
    assert list(axes.get_lines()[-2].get_xdata()) == pytest.approx([0.1, 0.2, 0.3])


def test_gpu_hours_of_a_run_that_moved(tmp_path: Path) -> None:
    """One hour on 8 GPUs, then half an hour on 2; until 1.2 h that is 8 + 0.4."""
    moved = replace(SESSION, from_epoch=10, from_hours=1.0, processes=2, gpus=("NVIDIA H100",) * 2, driver=None)
    (run,) = read_runs([run_folder(tmp_path / "run", [50] * 15, [SESSION, moved])])
    assert run.gpu_hours(1.2) == pytest.approx(8.4)
    assert run.gpu_hours(1.5) == pytest.approx(9.0)
    assert run.gpu_hours(0.5) == pytest.approx(4.0)
    assert "8 × NVIDIA TITAN RTX" in (said := dict(summary(run, None))["hardware"])
    assert "; then 2 × NVIDIA H100; AMD" in said
    late = replace(run, sessions=[moved])
    assert late.gpu_hours(1.5) is None  # what came before was not noted


def test_nothing_is_guessed(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path / "run", [50, 60], [])])
    said = dict(summary(run, 3.0))
    assert said["hardware"] == "not recorded"
    assert said["93 % top-5"] == "not reached"
    assert said["cost"] == "unknown: no GPU was recorded"
    assert said["done"] == "2 of 28 epochs, 0.2000 h"
    assert "GPU-hours" not in said


def test_a_start_that_nothing_is_left_of_is_forgotten(tmp_path: Path) -> None:
    again = replace(SESSION, started="2026-03-02T08:00:00+00:00")
    (run,) = read_runs([run_folder(tmp_path / "run", [50], [SESSION, replace(SESSION, from_hours=0.5), again])])
    assert [session.started for session in run.sessions] == [again.started]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("epochs.csv", None, "no epochs.csv here; give a run folder"),
        ("epochs.csv", b"", "no column"),
        ("epochs.csv", b"\xff\xfe\x00", "damaged"),
        ("epochs.csv", b"epoch,hours\n1,2\n", "no column data_wait_percent, "),
        ("config.json", None, "config.json: missing"),
        ("config.json", b"{", "config.json: damaged"),
        ("config.json", b"[]", "config.json: damaged"),
        ("config.json", b'{"schedule": {"phases": 3}}', "phases: 3 is not a list"),
        ("environment.json", b"[{}]", "environment.json: damaged"),
        ("environment.json", b"3", "environment.json: damaged"),
    ],
)
def test_damaged_folders_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, said: str
) -> None:
    folder = run_folder(tmp_path / "run", [50, 60])
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    assert report.main([str(folder)]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert said in printed.err
    assert str(folder) in printed.err
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:1], "no epoch is complete yet"),
        (lambda lines: [*lines[:2], lines[2][:20]], "row 2: no value for"),
        (lambda lines: [*lines[:2], lines[2].replace("128", "12x8")], "row 2: invalid literal"),
        (lambda lines: [lines[0], lines[2], lines[1]], "not in order"),
        (lambda lines: [*lines, '3,"'], "row 3:"),
    ],
)
def test_damaged_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], change, said: str) -> None:
    folder = run_folder(tmp_path / "run", [50, 60])
    table = folder / "epochs.csv"
    table.write_text("\n".join(change(table.read_text().splitlines())) + "\n")
    assert report.main([str(folder)]) == 2
    assert said in capsys.readouterr().err


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", [50])
    assert report.main([str(tmp_path / "none")]) == 2
    assert "no such folder; give a run folder" in capsys.readouterr().err
    assert report.main([str(folder), str(folder)]) == 2
    assert "given twice" in capsys.readouterr().err
    assert report.main([str(tmp_path / str(i)) for i in range(7)]) == 2
    assert "7 runs; at most 6" in capsys.readouterr().err
    for price in ("nan", "-1", "x"):
        with pytest.raises(SystemExit, match="2"):
            report.main([str(folder), "--price", price])


def test_rows_survive_their_file(tmp_path: Path) -> None:
    written = rows([10.123456, 20])
    write_epochs(tmp_path, written)
    for ours, theirs in zip(read_epochs(tmp_path), written, strict=True):
        assert ours.flat() == pytest.approx(theirs.flat(), nan_ok=True)


def test_the_published_curve_is_the_published_one() -> None:
    found = published()
    assert found.epoch == tuple(range(1, 28))
    assert (found.hours[0], found.top1[0], found.top5[-1]) == (0.0539, 7.28, 93.0179)


def test_data_files_are_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["training"]
    assert {PUBLISHED.name, report_html.STYLE.name} == set(declared)
    assert all((ROOT / "training" / name).is_file() for name in declared)
