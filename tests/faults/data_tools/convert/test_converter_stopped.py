"""The conversion ended from outside: killed, interrupted, a worker gone, the disk full. Nothing half-made is left
under a final name, nothing runs on, and the same command gives the file that an undisturbed run gives."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.images import jpeg, photo, spec_for, write_tar

from data_tools.beton import manifest, writer
from data_tools.beton.format import check
from data_tools.beton.manifest import read_manifest
from data_tools.convert import converter, estimate, journal
from data_tools.convert.converter import convert
from data_tools.convert.journal import JournalError
from data_tools.convert.plan import ConversionError
from data_tools.convert.worker_pool import WorkerError
from data_tools.sources.scan import read_index

# write_datasets.py with work in small pieces, so that there are many moments to be killed at.
DRIVER = """
import sys
from data_tools import beton
CHUNK_IMAGES, BARRIER_BYTES = 2, (1 << 18, 1 << 19)
import write_datasets
sys.exit(write_datasets.main(sys.argv[1:]))
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 training and 8 validation pictures, of which eight differ."""
    pictures = [jpeg(photo(at, 240, 180), quality=90) for at in range(8)]
    files = {f"x/train/n{at % 5:08d}/{at}.JPEG": pictures[at % 8] for at in range(100)}
    files |= {f"x/val/n{at % 5:08d}/v{at}.JPEG": pictures[at % 8] for at in range(8)}
    return write_tar(tmp_path_factory.mktemp("kill") / "source.tar", files)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed")
    convert(spec_for(source, out))
    return digests(out)


def digests(out: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())}


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    """A conversion in a session of its own, so that whatever it leaves behind can be found."""
    command = [sys.executable, "-c", DRIVER, f"--data.source={source}", f"--data.out={out}", "--write.workers=2"]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def alive(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                fields = (each / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(each.name))
    return found


def await_end(session: int, seconds: float = 10) -> list[int]:
    until = time.monotonic() + seconds
    while (left := alive(session)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


def await_writing(process: subprocess.Popen[str], out: Path, frames_bytes: int = 2000) -> None:
    """Until the journal tells of samples laid down."""
    notes = out / "train.journal"
    while process.poll() is None and not (notes.exists() and notes.stat().st_size > frames_bytes):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def assert_no_half_betons(out: Path) -> None:
    """What has a final name is whole; all else is called otherwise."""
    for path in out.glob("*.beton"):
        record = read_manifest(path)
        assert check(path, record) == []


def test_twenty_kills_at_random_moments(tmp_path: Path, source: Path, undisturbed: dict[str, str]) -> None:
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
            assert digests(out) == undisturbed
            finished += 1
            for file in out.iterdir():
                file.unlink()
        except subprocess.TimeoutExpired:
            process.kill()  # the writer alone: its workers have to notice by themselves
            process.communicate()
            kills += 1
            assert await_end(process.pid) == []
            if out.exists():
                assert_no_half_betons(out)
                amid += any(file.stat().st_size for file in out.glob("*.partial"))
    assert amid >= 5
    assert start(source, out).wait() == 0
    assert digests(out) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_at_once_and_resumably(
    tmp_path: Path, source: Path, undisturbed: dict[str, str], number: signal.Signals
) -> None:
    process = start(source, tmp_path)
    await_writing(process, tmp_path)
    opened = [str(each.readlink()) for pid in alive(process.pid) for each in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [name for name in opened if name.startswith("/dev/shm")]  # what has no name cannot be left behind
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=5)
    assert process.returncode == 128 + number
    assert time.monotonic() - sent < 5
    assert f"{number.name}: stopped; the same command continues" in errors
    assert "Traceback" not in errors
    assert await_end(process.pid) == []
    assert list(tmp_path.glob("*.beton")) == []
    again = start(source, tmp_path)
    assert again.communicate()[1]
    assert again.returncode == 0
    assert digests(tmp_path) == undisturbed


def test_a_worker_killed_by_the_kernel(tmp_path: Path, source: Path, undisturbed: dict[str, str]) -> None:
    process = start(source, tmp_path)
    await_writing(process, tmp_path)
    workers = [pid for pid in alive(process.pid) if pid != process.pid]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith("write_datasets.py: error: a worker was ended by SIGKILL")
    assert "same command continues" in last
    assert await_end(process.pid) == []
    assert list(tmp_path.glob("*.beton")) == []
    assert start(source, tmp_path).wait() == 0
    assert digests(tmp_path) == undisturbed


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


def test_a_disk_that_is_too_small_is_said_before_and_while_writing(
    small_disk: Path, source: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_disk / "out"
    with pytest.raises(ConversionError, match=r"about 0\.0 GB will be written where 0\.0 GB are free; make room"):
        convert(spec_for(source, out))
    assert list(out.iterdir()) == []
    monkeypatch.setattr(estimate, "check_room", lambda *_: None)
    with pytest.raises(OSError) as caught:
        convert(spec_for(source, out))
    assert caught.value.errno == errno.ENOSPC
    assert list(out.glob("*.beton")) == []
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    convert(spec_for(source, out))
    assert digests(out) == undisturbed


@pytest.mark.parametrize("fail_at", [0, 1, 8, 28, 31, 32, 36, 41])
def test_the_disk_full_at_any_write(
    tmp_path: Path, source: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    """Whichever write fails, samples, tables, checksums, journal or manifest, the next run ends well."""
    calls = 0

    def full(function: object) -> object:
        def wrapped(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls > fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **more)  # type: ignore[operator]

        return wrapped

    with monkeypatch.context() as patch:
        for module, name in ((writer, "_write_all"), (journal.Journal, "_append"), (manifest, "write_atomically")):
            patch.setattr(module, name, full(getattr(module, name)))
        with pytest.raises(OSError, match="No space left"):
            convert(spec_for(source, tmp_path))
    assert_no_half_betons(tmp_path)
    convert(spec_for(source, tmp_path))
    assert digests(tmp_path) == undisturbed


def interrupted(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, after: int = 60, barrier: int = 0) -> None:
    """A conversion that ends after so many images, as if by a power cut: nothing since the barrier was synced."""

    class Cut(Exception):
        pass

    def report(done: int, _: int) -> None:
        if done >= after:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(converter, "CHUNK_IMAGES", 2)
        if barrier:
            patch.setattr(converter, "BARRIER_BYTES", (barrier, barrier))
        with pytest.raises(Cut):
            convert(spec_for(source, out), report=report)


def test_a_resumed_run_does_not_start_over(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(source, tmp_path, monkeypatch, after=60)
    seen: list[int] = []
    convert(spec_for(source, tmp_path), report=lambda done, _: seen.append(done))
    assert seen[0] >= 60


@pytest.mark.parametrize("where", ["partial", "journal", "torn journal", "lost partial tail"])
def test_what_did_not_outlive_a_power_cut(
    tmp_path: Path, source: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    interrupted(source, tmp_path, monkeypatch)
    partial, notes = tmp_path / "train_320.beton.partial", tmp_path / "train.journal"
    content = bytearray(partial.read_bytes())
    if where == "partial":
        content[-5_000] ^= 0x10
        partial.write_bytes(content)
    elif where == "lost partial tail":
        partial.write_bytes(content[:-8_000] + bytes(8_000))
    else:
        content = bytearray(notes.read_bytes())
        if where == "journal":
            content[len(content) // 2] ^= 0x10
        notes.write_bytes(content if where == "journal" else content[:-7])
    seen: list[int] = []
    convert(spec_for(source, tmp_path), report=lambda done, _: seen.append(done))
    assert 0 < seen[0] < 62
    assert digests(tmp_path) == undisturbed


def test_a_partial_file_that_is_gone(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(source, tmp_path, monkeypatch, barrier=1 << 16)
    (tmp_path / "train_320.beton.partial").unlink()
    with pytest.raises(ConversionError, match=r"train_320\.beton\.partial: shorter than its journal says; remove"):
        convert(spec_for(source, tmp_path))


def test_an_interrupted_run_is_not_continued_with_other_options(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(source, tmp_path, monkeypatch)
    before = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    with pytest.raises(JournalError, match="quality was 90, is 80"):
        convert(spec_for(source, tmp_path, quality=80))
    with pytest.raises(JournalError, match="betons was"):
        convert(spec_for(source, tmp_path, caps=("160",)))
    assert {file.name: file.stat().st_size for file in tmp_path.iterdir()} == before


def test_a_finished_beton_is_neither_redone_nor_overwritten(
    tmp_path: Path, source: Path, undisturbed: dict[str, str]
) -> None:
    convert(spec_for(source, tmp_path))
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    summaries = convert(spec_for(source, tmp_path))
    assert {each.seconds for each in summaries} == {0.0}
    with pytest.raises(ConversionError, match=r"is there already, made with quality 90, not 80"):
        convert(spec_for(source, tmp_path, quality=80))
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == times
    assert digests(tmp_path) == undisturbed


def test_one_conversion_at_a_time(tmp_path: Path, source: Path) -> None:
    process = start(source, tmp_path)
    await_writing(process, tmp_path)
    with pytest.raises(ConversionError, match="another conversion is writing there"):
        convert(spec_for(source, tmp_path))
    process.kill()
    process.communicate()


def test_a_source_that_ends_while_it_is_read(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.tar"
    copy.write_bytes(source.read_bytes())
    index = read_index([copy])
    monkeypatch.setattr(converter, "read_index", lambda _: index)
    monkeypatch.setattr(estimate, "estimate", lambda *_: [])
    copy.write_bytes(source.read_bytes()[:200_000])
    with pytest.raises(WorkerError, match=r"copy\.tar: n0000000\d/\d+\.JPEG: \d+ of \d+ bytes; has the source changed"):
        convert(spec_for(copy, tmp_path / "out"))
    assert list((tmp_path / "out").glob("*.beton")) == []
