"""Checkpoints: whole or absent, plain values only."""

import errno
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.processes import largest_file

from data_tools.common import console
from data_tools.common.options import OptionError
from training.model import checkpoint


def test_checkpoint_is_read_as_it_was_saved(tmp_path: Path) -> None:
    state = {"model": {"w": torch.arange(6.0).view(2, 3)}, "progress": {"epoch": 3, "seconds": 1.5}}
    checkpoint.save(tmp_path / "last.pt", state)
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert loaded["progress"] == state["progress"]
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


class Unsaveable:
    def __reduce__(self) -> str:
        raise RuntimeError("unsaveable")


def test_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"progress": {"epoch": 1}})
    with pytest.raises(RuntimeError, match="unsaveable"):
        checkpoint.save(path, {"progress": Unsaveable()})
    assert checkpoint.load(path)["progress"] == {"epoch": 1}


def test_disk_without_room_is_an_os_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"progress": {"epoch": 1}})
    with largest_file(5000), pytest.raises(OSError, match="File too large") as error:
        checkpoint.save(path, {"model": {"w": torch.zeros(10_000)}})
    assert error.value.filename == str(path)
    assert checkpoint.load(path)["progress"] == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_missing_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="not a readable checkpoint: No such file"):
        checkpoint.load(tmp_path / "none.pt")
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": {"w": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OptionError, match="not a readable checkpoint"):
        checkpoint.load(path)
    torch.save({"w": torch.zeros(3)}, path)
    with pytest.raises(OptionError, match="not a checkpoint of this program"):
        checkpoint.load(path)


def test_note_about_a_damaged_checkpoint_is_printed_only_if_there_is_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.set_up()
    (tmp_path / checkpoint.LAST).touch()
    with pytest.raises(OptionError, match=r"last\.pt: not a readable checkpoint: empty; there is no older one"):
        checkpoint.load_newest(tmp_path)
    assert capsys.readouterr().err == ""
    checkpoint.save(tmp_path / checkpoint.PREVIOUS, {"progress": {"epoch": 1}})
    assert checkpoint.load_newest(tmp_path) is not None
    assert "empty; going back to the previous checkpoint" in capsys.readouterr().err


def newer(last: Path, patch: pytest.MonkeyPatch) -> None:
    with patch.context() as newer_program:
        newer_program.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
        checkpoint.save(last, {"progress": {"epoch": 2}})


def foreign(last: Path, patch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(3)}, last)


def elsewhere(last: Path, patch: pytest.MonkeyPatch) -> None:
    last.unlink()
    last.symlink_to(last.parent / "not mounted" / "last.pt")


def failing(error: Exception) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """The system call that reads last.pt fails; root may read every file."""
    read_bytes = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == checkpoint.LAST:
            raise error
        return read_bytes(path)

    return lambda last, patch: patch.setattr(Path, "read_bytes", fail)


@pytest.mark.parametrize(
    ("happens", "what"),
    [
        (
            failing(PermissionError(errno.EACCES, "Permission denied")),
            "Permission denied; make it readable",
        ),
        (failing(OSError(errno.ESTALE, "Stale file handle")), "Stale file handle; make it readable"),
        (failing(OSError(errno.EIO, "Input/output error")), "Input/output error; make it readable"),
        (failing(MemoryError()), "it does not fit into memory; make it readable"),
        (elsewhere, "No such file or directory; make it readable"),
        (
            newer,
            f"of version {checkpoint.VERSION + 1}, and this program reads version {checkpoint.VERSION}; use",
        ),
        (foreign, "not a checkpoint of this program; give the last.pt or best.pt"),
    ],
)
def test_checkpoint_that_is_not_damaged_is_not_passed_over(
    happens: Callable[[Path, pytest.MonkeyPatch], None], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        checkpoint.save(tmp_path / name, {"progress": {"epoch": 1}})
    happens(tmp_path / checkpoint.LAST, monkeypatch)
    with pytest.raises(OptionError) as refused:
        checkpoint.load_newest(tmp_path)
    assert what in str(refused.value)


def test_any_flipped_or_missing_byte_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    path, state = tmp_path / "last.pt", {"w": torch.arange(40.0), "progress": {"epoch": 3}}
    checkpoint.save(path, state)
    content, damaged = path.read_bytes(), 0
    flipped = (content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in range(len(content)))
    for each in (*flipped, *(content[:at] for at in range(0, len(content), 7))):
        path.write_bytes(each)
        try:
            loaded = checkpoint.load(path)
        except checkpoint.DamagedError:
            damaged += 1
        else:
            assert torch.equal(loaded["w"], state["w"]) and loaded["progress"] == state["progress"]
    assert damaged > 300


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("was_run"),)  # type: ignore[return-value]


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raw.pt").write_bytes(pickle.dumps(Hostile()))
    torch.save({"version": 1, "model": Hostile()}, "zip.pt")
    for name in ("raw.pt", "zip.pt"):
        with pytest.raises(OptionError, match="not a readable checkpoint"):
            checkpoint.load(Path(name))
    assert not Path("was_run").exists()
