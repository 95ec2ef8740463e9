"""The DAWNBench table of events in the published form, against numbers worked out by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from data_tools import dawn_tsv

START = 1_550_000_000.0
IMAGES = 1_277_952  # 312 batches of 4,096
HEADER = "epoch\thours\ttop1\ttop5"

# Minutes from the start until an epoch's scores are logged, top-1, top-5, seconds of its evaluation.
EPOCHS = [(6, 30.0, 55.0, 36.0), (12, 50.5, 75.25, 36.0), (21, 74.0, 93.0, 72.0), (30, 75.0, 94.0, 72.0)]


class Run:
    """Writes what the published code does, at times of its own."""

    def __init__(self, folder: Path, name: str = "a", purge_step: int | None = None) -> None:
        self.folder, self.name = folder, name
        self.writer = SummaryWriter(str(folder), filename_suffix=f".{name}", purge_step=purge_step)

    def log(self, tag: str, value: float, step: int, minutes: float) -> None:
        self.writer.add_scalar(tag, value, step, walltime=START + 60 * minutes)

    def begin(self, minutes: float = 0, tag: str = "first") -> None:
        self.log(tag, START + 60 * minutes, 0, minutes)

    def epochs(self, epochs: Sequence[tuple[float, float, float, float]], first: int = 1) -> None:
        for number, (minutes, top1, top5, seconds) in enumerate(epochs, start=first):
            step = number * IMAGES
            self.log("losses/xent", 3.0, step - 4096, minutes - 1)
            self.log("losses/test_1", top1, step, minutes - 0.001)
            self.log("losses/test_5", top5, step, minutes)
            self.log("times/eval_sec", seconds, step, minutes + 0.001)

    def end(self) -> Path:
        self.writer.close()
        (file,) = self.folder.glob(f"*.{self.name}")
        return file


def table(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> list[str]:
    assert dawn_tsv.main([str(path), *more]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    header, *lines = printed.out.splitlines()
    assert header == HEADER
    return lines


@pytest.fixture
def published(tmp_path: Path) -> Path:
    run = Run(tmp_path)
    run.begin()
    run.epochs(EPOCHS)
    return run.end()


def test_hours_count_from_the_first_event_to_the_scores(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = ["1\t0.1000\t30.0000\t55.0000", "2\t0.2000\t50.5000\t75.2500", "3\t0.3500\t74.0000\t93.0000"]
    assert table(capsys, published) == expected
    assert table(capsys, published.parent) == expected


def test_start_is_found_under_our_own_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path)
    run.begin(tag="times/first")
    run.epochs(EPOCHS[:1])
    assert table(capsys, run.end()) == ["1\t0.1000\t30.0000\t55.0000"]


def test_ignore_eval_subtracts_evaluation_time(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 36 s are 0.01 h, 72 s are 0.02 h; all evaluations so far come off.
    lines = table(capsys, published, "--ignore-eval")
    assert [line.split("\t")[1] for line in lines] == ["0.0900", "0.1800", "0.3100"]


def test_truncated_events_give_the_complete_epochs(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut again and again within the later half: whole epochs are there, and nothing breaks."""
    content, seen = published.read_bytes(), set()
    for end in range(len(content) // 2, len(content), 7):
        published.write_bytes(content[:end])
        for more in ((), ("--ignore-eval",)):
            lines = table(capsys, published, *more)
            assert lines[0].endswith("30.0000\t55.0000")
            seen.add(len(lines))
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("purge_step", [IMAGES + 1, IMAGES, None])
def test_interrupted_run_that_was_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], purge_step: int | None
) -> None:
    """Killed in the third epoch, after more was logged than the checkpoint at the end of the first epoch held.

    With IMAGES, the scores at the very step from which the run continues still count. Without a purge step, the steps
    that go back show what is repeated, and the clock starts a second time.
    """
    run = Run(tmp_path, "a")
    run.begin()
    run.epochs([(6, 30, 55, 36), (12, 11, 12, 36)])
    file = run.end()
    file.write_bytes(file.read_bytes()[:-20])
    file.rename(tmp_path / "events.out.tfevents.1000000000.host")
    again = Run(tmp_path, "b", purge_step=purge_step)
    again.log("first", START, 0, 15) if purge_step is None else None
    again.epochs([(24, 50.5, 75.25, 36), (30, 74, 93, 72)], first=2)
    again.end()
    lines = table(capsys, tmp_path)
    assert lines == ["1\t0.1000\t30.0000\t55.0000", "2\t0.4000\t50.5000\t75.2500", "3\t0.5000\t74.0000\t93.0000"]
    assert [line.split("\t")[1] for line in table(capsys, tmp_path, "--ignore-eval")] == ["0.0900", "0.3800", "0.4600"]


def test_only_the_last_run_of_a_folder_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = Run(tmp_path, "a")
    old.begin()
    old.epochs(EPOCHS)
    old.end().rename(tmp_path / "events.out.tfevents.1000000000.host")
    new = Run(tmp_path, "b", purge_step=0)
    new.begin(minutes=100)
    new.epochs([(130, 20, 40, 36)])
    new.end()
    assert table(capsys, tmp_path) == ["1\t0.5000\t20.0000\t40.0000"]


def test_unusable_events_end_in_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(path: Path, *more: str) -> str:
        assert dawn_tsv.main([str(path), *more]) == 2
        printed = capsys.readouterr()
        assert (printed.out, len(printed.err.splitlines())) == ("", 1)
        assert str(path) in printed.err
        return printed.err

    assert "no such file or folder" in error(tmp_path / "none")
    assert "no event files" in error(tmp_path)
    (tmp_path / "events.out.tfevents.1.x").write_bytes(b"this is no event file" * 9)
    assert "no scalar 'first' or 'times/first'" in error(tmp_path)
    (tmp_path / "events.out.tfevents.1.x").unlink()
    run = Run(tmp_path)
    run.begin()
    run.end()
    assert "no epoch has been evaluated, with all of losses/test_5, losses/test_1\n" in error(tmp_path)
    assert "all of losses/test_5, losses/test_1, times/eval_sec\n" in error(tmp_path, "--ignore_eval")
    run = Run(tmp_path, "z")
    for step in (1, 2):
        run.log("losses/test_5", 50, step, 10 * step)
    run.end()
    assert "no scalar 'losses/test_1' of epoch 1 (step 1)" in error(tmp_path)
