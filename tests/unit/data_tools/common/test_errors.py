"""How programs end: one line for what a user can mend, nothing for a reader who went away, a traceback for the rest."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from data_tools.common.errors import ENDING, MissingFileError, UserError, program
from data_tools.common.files import locked, partial_file
from data_tools.common.runtime import WAITING

FULL = Path("/dev/full")


def run(action: Callable[[], int]) -> int:
    @program("some.tool")
    def main(argv: Sequence[str]) -> int:
        return action()

    return main([])


def fail(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


def test_error_says_where_what_and_remedy() -> None:
    error = UserError("no beton here", where=Path("/data/train_160.beton"), remedy="run write_datasets.py")
    assert str(error) == "/data/train_160.beton: no beton here; run write_datasets.py"
    assert (error.what, error.where, error.remedy) == (
        "no beton here",
        "/data/train_160.beton",
        "run write_datasets.py",
    )
    assert str(UserError("out of luck")) == "out of luck"


def test_missing_file_is_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.tar: no such source"):
        raise MissingFileError("no such source", where="a.tar")


def test_line_ends_in_names_do_not_make_more_lines() -> None:
    assert str(UserError("bad\nname", where="a\x1b[1m")) == "a\\x1b[1m: bad\\nname"


@pytest.mark.parametrize(
    ("chosen", "policy"),
    [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "9"}, None)],
)
def test_waiting_threads_sleep_in_every_program_unless_the_user_has_chosen(
    chosen: dict[str, str], policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    found = []
    assert run(lambda: found.append(os.environ.get("OMP_WAIT_POLICY")) or 0) == 0
    assert found == [policy]


def test_user_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fail(UserError("wrong", where="--a.b", remedy="give another"))) == 2
    assert capsys.readouterr() == ("", "some.tool: error: --a.b: wrong; give another\n")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_the_encoding_lacks_is_printed_as_an_escape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    monkeypatch.setattr(sys, name, stream)
    assert run(lambda: print("größe caf\udce9", file=stream) or 0) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"gr\\xf6\\xdfe caf\\udce9\n"


def test_long_remedy_has_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fail(UserError("wrong", where="--a.b", remedy="give " + "x" * 80))) == 2
    assert capsys.readouterr().err == f"some.tool: error: --a.b: wrong\n  remedy: give {'x' * 80}\n"


def test_failed_system_call_that_names_a_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fail(PermissionError(errno.EACCES, "Permission denied", "/root/x"))) == 2
    assert capsys.readouterr().err == "some.tool: error: /root/x: Permission denied\n"
    assert run(fail(PermissionError(errno.EACCES, "Permission denied", b"/root/x"))) == 2
    assert capsys.readouterr().err == "some.tool: error: /root/x: Permission denied\n"


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="a bug"):
        run(fail(ValueError("a bug")))
    with pytest.raises(OSError, match="No space left"):
        run(fail(OSError(errno.ENOSPC, "No space left")))


def show_help() -> NoReturn:
    print("x" * 1000, flush=True)
    sys.exit(0)


def test_help_ends_a_program_with_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(show_help)
    assert capsys.readouterr() == ("x" * 1000 + "\n", "")


@pytest.mark.parametrize("ends", [lambda: print("x" * 1000) or 0, show_help])
def test_reader_who_went_away_ends_a_program_quietly(
    ends: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    with os.fdopen(writable, "w") as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        assert run(ends) == 141
        gone.flush()  # as at the interpreter's exit: nothing more is complained of
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("what", ["output", "help", "much output"])
def test_standard_output_on_a_full_disk_is_one_line(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FULL.open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        length = 100_000 if what == "much output" else 1000
        assert run(show_help if what == "help" else lambda: print("x" * length) or 0) == 2
        full.flush()  # as at the interpreter's exit
    assert capsys.readouterr().err == "some.tool: error: standard output: No space left on device\n"


def test_output_that_cannot_be_written_does_not_hide_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        print("some output")
        raise UserError("wrong")

    with FULL.open("w") as out, FULL.open("w") as err, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        assert run(main) == 2
        out.flush()
        err.flush()


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_signal_unwinds_a_program_and_is_one_line(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def action() -> int:
        with locked(tmp_path, "a training"), partial_file(tmp_path / "a.txt") as partial:
            partial.touch()
            os.kill(os.getpid(), number)
        return 0

    assert run(action) == 128 + number
    assert capsys.readouterr().err == "some.tool: stopped\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
