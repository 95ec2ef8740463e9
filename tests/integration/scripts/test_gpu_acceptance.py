"""The program for the first GPU, run on the CPU instead."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from helpers.processes import wait_for_end_of_session

from scripts.gpu_acceptance import Part, main, parts, run, without_betons
from scripts.gpu_report import Result, goals, outcomes, table

MACHINE = {"device": "a card", "driver": "580.1", "cuda": "13.0", "versions": {"torch": "2.15.0"}}


def python(name: str, code: str, seconds: float = 60, rows: bool = False) -> Part:
    return Part(name=name, command=("-c", code), seconds=seconds, rows=rows)


def run_now(part: Part, tmp_path: Path, seconds_left: float = 60) -> Result:
    return run(part, time.monotonic() + seconds_left, tmp_path / "log", dict(os.environ))


def test_part_that_hangs_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    session = tmp_path / "session"
    code = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(session)!r}, "w").write(str(os.getsid(0)))
time.sleep(600)
"""
    assert run_now(python("hanging", code, seconds=3), tmp_path).status == "stopped after 3 s"
    wait_for_end_of_session(int(session.read_text()))


def test_part_that_fails_or_has_no_time_left_says_so(tmp_path: Path) -> None:
    assert run_now(python("failing", "raise SystemExit(3)"), tmp_path).status == "failed with exit status 3"
    assert run_now(python("late", ""), tmp_path, seconds_left=0).status == "not run: no time left"


def test_steps_are_measured_without_betons_too(tmp_path: Path) -> None:
    step = next(part for part in parts(tmp_path, stand_in=False) if part.name == "step 224")
    assert f"--betons={tmp_path / 'betons'}" in step.command
    assert not any("betons" in word for word in without_betons(step).command)


def test_command_beside_a_part_runs_until_the_limit_of_the_part(tmp_path: Path) -> None:
    done, session = tmp_path / "done", tmp_path / "session"
    short = ("-c", f"import time; time.sleep(1); open({str(done)!r}, 'w')")
    endless = ("-c", f"import os, time; open({str(session)!r}, 'w').write(str(os.getsid(0))); time.sleep(600)")
    part = Part(name="part", command=("-c", ""), seconds=5, beside=(short, endless))
    assert run_now(part, tmp_path).status == "done"
    assert done.exists()
    wait_for_end_of_session(int(session.read_text()))


def test_variants_are_shown_against_our_step() -> None:
    rows = (
        {"name": "fp16", "baseline": "ours", "images_per_s": 110, "ratio": 1.1},
        {"name": "ours", "baseline": "", "images_per_s": 100, "ratio": 1.0},
    )
    results = [Result(name="variants 224", status="done", rows=rows)]
    shown = [line.split() for line in table(MACHINE, results, goals(results, on_gpu=True))]
    assert ["variants", "224", "100", *["not", "run"] * 6] in shown
    assert ["fp16", "110", "1.1", *["not", "run"] * 5] in shown


def test_rates_at_224_px_are_shown_beside_mlperfs_and_kernels_with_their_bandwidth() -> None:
    rows = ({"case": "224", "name": "ours", "baseline": "", "images_per_s": 8745, "ratio": 1.0},)
    kernel = {"name": "alone, forward", "side": 56, "channels": 256, "ms": 0.2, "tb_per_s": 3.6}
    results = [Result(name="variants 224 x 400", status="done", rows=rows)]
    results.append(Result(name="kernels", status="done", rows=(kernel,)))
    lines = [" ".join(line.split()) for line in table(MACHINE, results, goals(results, on_gpu=True))]
    assert "56 256 alone, forward 0.2 3.6" in lines
    assert any(line.startswith("variants 224 x 400 8745 ") and line.endswith(" 1.1") for line in lines)


def test_kernels_and_small_steps_are_parts(tmp_path: Path) -> None:
    names = [part.name for part in parts(tmp_path, stand_in=False)]
    assert {"kernels", "variants 96", "variants 224 x 400"} <= set(names)


def test_rows_of_a_benchmark_that_failed_later_are_kept(tmp_path: Path) -> None:
    code = "import json, sys; open(sys.argv[2], 'w').write(json.dumps([{'name': 'ours'}])); raise SystemExit(1)"
    result = run_now(python("step 224", code, rows=True), tmp_path)
    assert (result.status, result.rows) == ("failed with exit status 1", ({"name": "ours"},))


def test_tests_are_counted_without_a_summary() -> None:
    output = (
        "tests/gpu/a.py::four \n"
        "[gw1] [  5%] PASSED tests/gpu/a.py::one[fp16, dynamic scale] \n"
        "tests/gpu/a.py::five \n"
        "[gw0] [ 10%] FAILED tests/gpu/a.py::two \n"
        "[gw3] [100%] SKIPPED tests/gpu/a.py::three "
    )
    assert outcomes(output) == {
        "PASSED": ["gpu/a.py::one[fp16, dynamic scale]"],
        "FAILED": ["gpu/a.py::two"],
        "ERROR": [],
        "SKIPPED": ["gpu/a.py::three"],
    }


@pytest.mark.parametrize(
    ("step", "path", "wait", "met"),
    [(1.25, 0.97, 1.99, [True, True, True]), (1.24, 0.96, 2.0, [False, False, False])],
)
def test_goals_are_judged_at_their_limits(step: float, path: float, wait: float, met: list[bool]) -> None:
    rows = (
        {"name": "ours", "baseline": "ffcv_imagenet", "images_per_s": 1, "ratio": step},
        {"name": "ours_whole_path", "baseline": "ours", "images_per_s": 1, "ratio": path, "data_wait_percent": wait},
    )
    assert [goal.met for goal in goals([Result(name="step 224", status="done", rows=rows)], on_gpu=True)] == met


def test_table_says_what_was_not_run() -> None:
    results = [Result(name="step 224", status="not run: no time left"), Result(name="step 128", status="done")]
    lines = list(table(MACHINE, results, goals(results, on_gpu=True)))
    assert sum("not run: no time left" in line for line in lines) == 1
    assert sum(line.endswith("not run") for line in lines) == 5  # two lines of figures, three goals
    assert not any("met" in line or "missed" in line for line in lines)


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stand-in", "--minutes=30", f"--out={tmp_path}"]) == 0, (tmp_path / "acceptance.log").read_text()
    record = json.loads((tmp_path / "acceptance.json").read_text())
    assert {part["name"]: part["status"] for part in record["parts"]} == dict.fromkeys(
        ("sample", "betons", "tests", "step 224", "step 128", "variants 224"), "done"
    )
    tests = next(part["tests"] for part in record["parts"] if part["tests"])
    assert len(tests["PASSED"]) == 2 and not tests["FAILED"] and not tests["SKIPPED"]
    assert all(goal["measured"] is not None and goal["met"] is None for goal in record["goals"])
    assert "CPU instead of a GPU" in capsys.readouterr().out
