"""A conversion that is killed or stopped, or runs out of disk leaves no process and no unfinished file
under a final name; the same command then gives the same files as without the interruption."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.betons import file_digests
from helpers.images import jpeg, photo, spec_for, write_tar
from helpers.processes import processes_of_session, wait_for_end_of_session

from data_tools.beton.checks import structure_faults
from data_tools.beton.manifest import read_manifest
from data_tools.common.errors import UserError
from data_tools.convert import converter, estimate
from data_tools.convert.converter import convert
from data_tools.convert.journal import JournalError
from data_tools.convert.plan import ConversionError
from data_tools.sources.scan import read_index

# write_datasets.py with work in small pieces and a pause after each, so that there are many moments to be killed at.
DRIVER = """
import sys, time
from data_tools.convert import converter
class SlowJournal(converter.Journal):
    def add(self, records):
        super().add(records)
        time.sleep(0.01)
converter.Journal = SlowJournal
converter.CHUNK_IMAGES, converter.SYNC_BYTES = 2, (1 << 18, 1 << 19)
import write_datasets
sys.exit(write_datasets.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 training and 8 validation pictures, of which eight differ."""
    pictures = [jpeg(photo(at, 240, 180), quality=90) for at in range(8)]
    files = {f"x/train/n{at % 5:08d}/{at}.JPEG": pictures[at % 8] for at in range(100)}
    files |= {f"x/val/n{at % 5:08d}/v{at}.JPEG": pictures[at % 8] for at in range(8)}
    return write_tar(tmp_path_factory.mktemp("kill") / "source.tar", files)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, str]:
    """The files of a conversion that nothing interrupted."""
    out = tmp_path_factory.mktemp("uninterrupted")
    convert(spec_for(source, out))
    return file_digests(out)


def start(source: Path, out: Path, *before: str) -> subprocess.Popen[str]:
    """A conversion in a session of its own, so that whatever it leaves behind can be found; its command may follow
    another that starts it."""
    options = [f"--data.source={source}", f"--data.out={out}", "--write.workers=2"]
    command = [*before, sys.executable, "-c", DRIVER, *options]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_samples(process: subprocess.Popen[str], out: Path, frames_bytes: int = 2000) -> None:
    """Until the journal records samples."""
    notes = out / "train.journal"
    while process.poll() is None and not (notes.exists() and notes.stat().st_size > frames_bytes):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def assert_betons_are_whole(out: Path) -> None:
    """Files under a final name are complete."""
    for path in out.glob("*.beton"):
        assert structure_faults(path, read_manifest(path)) == []


def test_twenty_kills_at_random_moments_do_not_change_the_result(
    tmp_path: Path, source: Path, uninterrupted: dict[str, str]
) -> None:
    rng = random.Random(20)
    out = tmp_path / "out"
    started = time.monotonic()
    assert start(source, tmp_path / "timed").wait() == 0
    whole_run = time.monotonic() - started
    kills = amid = finished = 0
    while kills < 20:
        process = start(source, out)
        try:
            process.communicate(timeout=rng.uniform(0.15, 1.0) * whole_run)
            assert process.returncode == 0
            assert file_digests(out) == uninterrupted
            finished += 1
            for file in out.iterdir():
                file.unlink()
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            wait_for_end_of_session(process.pid)
            if out.exists():
                assert_betons_are_whole(out)
                amid += any(file.stat().st_size for file in out.glob("*.partial"))
    assert amid >= 5
    assert start(source, out).wait() == 0
    assert file_digests(out) == uninterrupted


@pytest.mark.parametrize("caps", [("160", "320"), None])
def test_conversion_killed_after_its_last_rename_leaves_nothing_behind(
    tmp_path: Path,
    source: Path,
    uninterrupted: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caps: tuple[str, ...] | None,
) -> None:
    """Whether the same command comes next or one for more betons."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(converter, "remove_journal", killed)
        convert(spec_for(source, tmp_path, caps=caps, splits=("train",)))
    assert (tmp_path / "train.journal").exists()
    (tmp_path / "train_160.beton.partial").touch()  # of a beton that was complete before that pass
    convert(spec_for(source, tmp_path))
    assert file_digests(tmp_path) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_conversion_that_can_be_continued(
    tmp_path: Path, source: Path, uninterrupted: dict[str, str], number: signal.Signals
) -> None:
    process = start(source, tmp_path)
    wait_for_samples(process, tmp_path)
    opened = [
        str(each.readlink()) for pid in processes_of_session(process.pid) for each in Path(f"/proc/{pid}/fd").iterdir()
    ]
    assert not [name for name in opened if name.startswith("/dev/shm")]  # memory without a name cannot be left over
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"{number.name}: stopped; the same command continues" in errors
    assert "Traceback" not in errors
    wait_for_end_of_session(process.pid)
    assert list(tmp_path.glob("*.beton")) == []
    again = start(source, tmp_path)
    assert again.communicate()[1]
    assert again.returncode == 0
    assert file_digests(tmp_path) == uninterrupted


def test_closed_terminal_and_full_disk_of_the_log_do_not_end_a_conversion(
    tmp_path: Path, source: Path, uninterrupted: dict[str, str]
) -> None:
    process = start(source, tmp_path, "sh", "-c", 'trap "" HUP; exec "$@" > /dev/full 2>&1', "nohup")
    wait_for_samples(process, tmp_path)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert file_digests(tmp_path) == uninterrupted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_too_small_disk_is_an_error_before_and_while_writing(
    small_disk: Path, source: Path, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_disk / "out"
    with pytest.raises(ConversionError, match=r"about [\d.]+ MB will be written, but only 2\.1 MB are free; make room"):
        convert(spec_for(source, out))
    assert not out.exists()
    monkeypatch.setattr(estimate, "check_room", lambda *_: None)
    with pytest.raises(OSError) as caught:
        convert(spec_for(source, out))
    assert caught.value.errno == errno.ENOSPC
    assert list(out.glob("*.beton")) == []
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    convert(spec_for(source, out))
    assert file_digests(out) == uninterrupted


def fail_writes(out: Path, first: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Disk full at the ``first`` write or sync of a file in a folder and ever after; the names that were written to."""
    written: list[str] = []

    def limited(function: Callable[..., object]) -> Callable[..., object]:
        def write(descriptor: int, *arguments: object) -> object:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path.parent == out and path.is_file():
                written.append(path.name)
                if len(written) > first:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(descriptor, *arguments)

        return write

    for name in ("write", "pwrite", "fsync", "fdatasync"):
        monkeypatch.setattr(os, name, limited(getattr(os, name)))
    return written


@pytest.fixture(scope="module")
def written_files(tmp_path_factory: pytest.TempPathFactory, source: Path) -> list[str]:
    """The file of every write and sync of a conversion."""
    out = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        written = fail_writes(out, sys.maxsize, patch)
        convert(spec_for(source, out))
    return written


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["train.journal", "train_320.beton.partial", ".partial.xxh64", ".partial.json"])
def test_disk_full_at_any_write_can_be_continued(
    tmp_path: Path,
    source: Path,
    uninterrupted: dict[str, str],
    written_files: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    last: bool,
) -> None:
    """At the first and at the last write of samples and tables, checksums, journal and manifests."""
    writes = [number for number, written in enumerate(written_files) if written.endswith(name)]
    with monkeypatch.context() as patch:
        written = fail_writes(tmp_path, writes[-last], patch)
        with pytest.raises(OSError, match="No space left"):
            convert(spec_for(source, tmp_path))
    assert written[writes[-last]].endswith(name)
    assert_betons_are_whole(tmp_path)
    convert(spec_for(source, tmp_path))
    assert file_digests(tmp_path) == uninterrupted


def convert_until(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, after: int = 60) -> None:
    """A conversion that ends after so many images, without a sync at its end."""

    class Interrupted(Exception):
        pass

    def report(done: int, _: int) -> None:
        if done >= after:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(converter, "CHUNK_IMAGES", 2)
        with pytest.raises(Interrupted):
            convert(spec_for(source, out), report=report)


@pytest.mark.parametrize("cap", ["160", "320", "full"])
def test_beton_that_was_completed_meanwhile_is_left_alone(
    tmp_path: Path, source: Path, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch, cap: str
) -> None:
    """As one copied from another machine into the folder of an interrupted conversion."""
    other, out = tmp_path / "other", tmp_path / "out"
    convert(spec_for(source, other, caps=(cap,)))
    convert_until(source, out, monkeypatch)
    for file in other.glob(f"train_{cap}.beton*"):
        shutil.copy(file, out)
    convert(spec_for(source, out))
    assert file_digests(out) == uninterrupted


@pytest.mark.parametrize("where", ["nothing", "partial", "journal", "torn journal", "lost partial tail"])
def test_data_lost_in_a_power_cut_is_written_again(
    tmp_path: Path, source: Path, uninterrupted: dict[str, str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    convert_until(source, tmp_path, monkeypatch)
    partial, notes = tmp_path / "train_320.beton.partial", tmp_path / "train.journal"
    content = bytearray(partial.read_bytes())
    if where == "partial":
        content[-5_000] ^= 0x10
        partial.write_bytes(content)
    elif where == "lost partial tail":
        partial.write_bytes(content[:-8_000] + bytes(8_000))
    elif "journal" in where:
        content = bytearray(notes.read_bytes())
        if where == "journal":
            content[len(content) // 2] ^= 0x10
        notes.write_bytes(content if where == "journal" else content[:-7])
    progress: list[int] = []
    convert(spec_for(source, tmp_path), report=lambda done, _: progress.append(done))
    assert progress[0] >= 60 if where == "nothing" else 0 < progress[0] < 62
    assert file_digests(tmp_path) == uninterrupted


def test_missing_partial_file_is_an_error(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert_until(source, tmp_path, monkeypatch)
    (tmp_path / "train_320.beton.partial").unlink()
    monkeypatch.setattr(converter, "SYNC_BYTES", (1 << 16, 1 << 16))  # what is not compared any more
    with pytest.raises(ConversionError, match=r"train_320\.beton\.partial: shorter than its journal says; remove"):
        convert(spec_for(source, tmp_path))


def test_conversion_is_not_continued_with_other_options(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_until(source, tmp_path, monkeypatch)
    before = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    with pytest.raises(JournalError, match="quality was 90, is 80"):
        convert(spec_for(source, tmp_path, quality=80))
    with pytest.raises(JournalError, match=r"\(originals of full was False, is True\); give"):
        convert(spec_for(source, tmp_path, full="original"))
    with pytest.raises(JournalError, match="betons was"):
        convert(spec_for(source, tmp_path, caps=("160",)))
    assert {file.name: file.stat().st_size for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("line", [b"no JSON", b"[1]", b'{"split": "train"}', b'{"betons": 1}', b"\xff\xfe"])
def test_something_else_in_place_of_a_journal_is_refused(tmp_path: Path, source: Path, line: bytes) -> None:
    (tmp_path / "train.journal").write_bytes(line + b"\nmore")
    with pytest.raises(JournalError, match=r"train\.journal: not a journal of a conversion; remove \*\.journal"):
        convert(spec_for(source, tmp_path))


def test_second_conversion_into_a_folder_is_refused(tmp_path: Path, source: Path) -> None:
    process = start(source, tmp_path)
    wait_for_samples(process, tmp_path)
    process.send_signal(signal.SIGSTOP)  # or it may be done by now
    with pytest.raises(UserError, match="a conversion is writing there"):
        convert(spec_for(source, tmp_path))
    process.kill()
    process.communicate()


def test_source_cut_while_it_is_read_is_an_error(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.tar"
    copy.write_bytes(source.read_bytes())
    index = read_index([copy])
    monkeypatch.setattr(converter, "read_index", lambda *_, **__: index)
    monkeypatch.setattr(estimate, "estimate", lambda *_: [])
    copy.write_bytes(source.read_bytes()[:200_000])
    with pytest.raises(OSError, match=r"copy\.tar: n0000000\d/\d+\.JPEG: no longer \d+ bytes; has the source changed"):
        convert(spec_for(copy, tmp_path / "out"))
    assert list((tmp_path / "out").glob("*.beton")) == []
