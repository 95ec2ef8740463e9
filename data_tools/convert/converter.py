"""The writer: one read and one decode of every image, all sizes laid down in order, whole or resumable.

Data goes to NAME.beton.partial while a journal notes what is laid down; the same command continues from there.
When a file is whole it is synced, its checksums and manifest are written, and then it takes its final name.
The bytes depend on the source and the options alone: not on the number of workers, the run or an interruption.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton import format as layout
from data_tools.beton import manifest
from data_tools.beton.manifest import Manifest, Skipped
from data_tools.beton.writer import Output
from data_tools.common.files import locked, sync_folder, write_whole
from data_tools.convert import estimate
from data_tools.convert.config import WriteSpec
from data_tools.convert.journal import Journal
from data_tools.convert.plan import ConversionError, Pass, plan, versions
from data_tools.convert.worker_pool import Item, Piece, Pool
from data_tools.sources import scan as sources
from data_tools.sources.index import Index
from data_tools.sources.parquet import group_of

CHUNK_IMAGES = 16  # what a worker is given at once
CHUNK_BYTES = 4 << 20
CHUNK_ROWS = 128  # of parquet: within a row group, which a worker has to read from its start
BARRIER_BYTES = (8 << 20, 256 << 20)  # written between two syncs, at least and at most
BARRIER_SECONDS = 1.0  # what a sync should take at most: a signal waits for it

Report = Callable[[int, int], None]  # images laid down, images in all
Say = Callable[[str], None]  # a line for the person who waits


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One beton, written now or found complete (then it took no seconds)."""

    path: Path
    images: int
    bytes: int  # of the file; the last page is written out in full, so a small one is mostly zeros
    stored: int  # of the samples alone
    seconds: float


def write(spec: WriteSpec, *, report: Report | None = None, say: Say | None = None) -> list[Summary]:
    """Convert. Raises ConversionError, ArchiveError, WorkerError, JournalError or OSError, each one line."""
    index = sources.read(spec.data.source)
    tell = say or (lambda line: None)
    tell(_contents(index))
    with locked(spec.data.out):
        passes = plan(index, spec)
        summaries = [_summary(path) for each in passes for path in each.paths if all(each.done)]
        passes = [each for each in passes if not all(each.done)]
        if passes:
            summaries += _write(passes, index, spec, report, tell)
    return sorted(summaries, key=lambda summary: summary.path)


def _write(passes: list[Pass], index: Index, spec: WriteSpec, report: Report | None, tell: Say) -> list[Summary]:
    summaries, before, total = [], 0, sum(len(each.stream) for each in passes)
    with Pool(spec.write.workers) as pool:  # the workers start up while the estimate is made
        expected = [each for job in passes for each in estimate.estimate(job, index, spec.write.workers)]
        tell(estimate.table(expected, spec.data.out))
        estimate.check_room(expected, spec.data.out)
        for each in passes:
            summaries += Conversion(each, index, spec, pool).run(_step(report, before, total))
            before += len(each.stream)
    return summaries


def _step(report: Report | None, before: int, total: int) -> Callable[[int], None]:
    return lambda images: report(before + images, total) if report else None


def _contents(index: Index) -> str:
    counts = ", ".join(f"{len(each):,} {each.split}{f' at {each.cap}' if each.cap else ''}" for each in index.streams)
    ignored = f"; {index.ignored:,} other files ignored, e.g. {index.ignored_example}" if index.ignored else ""
    return f"{counts} images of {len(index.classes):,} classes{ignored}"


def _summary(path: Path, seconds: float = 0.0) -> Summary:
    record = manifest.read(path)
    stored = int(layout.read(path).alloc["size"].sum())
    return Summary(path=path, images=record.images, bytes=record.bytes, stored=stored, seconds=seconds)


class Conversion:
    """One pass, from where its journal says it is to betons under their final names."""

    def __init__(self, job: Pass, index: Index, spec: WriteSpec, pool: Pool) -> None:
        self.job, self.index, self.spec, self.pool = job, index, spec, pool
        self.stream = job.stream
        self.images = len(job.stream)

    def run(self, report: Callable[[int], None]) -> list[Summary]:
        started = time.monotonic()
        journal = Journal(self.job.journal, self.job.identity, self.images, len(self.job.paths))
        outputs = [
            None if done else Output(path, self.images, page_bytes)
            for path, page_bytes, done in zip(self.job.paths, self.job.recipe.page_bytes, self.job.done, strict=True)
        ]
        try:
            _resume(journal, outputs)
            self._lay_down(journal, [output for output in outputs if output], report)
            for at, output in enumerate(outputs):
                if output:
                    self._finish(journal, output, at)
        finally:
            journal.close()
            for output in outputs:
                if output:
                    output.close()
        self.job.journal.unlink()
        seconds = time.monotonic() - started
        return [
            _summary(path, 0.0 if done else seconds) for path, done in zip(self.job.paths, self.job.done, strict=True)
        ]

    # ------------------------------------------------------------------------------------------ samples
    def _lay_down(self, journal: Journal, outputs: list[Output], report: Callable[[int], None]) -> None:
        report(journal.progress.done)
        if journal.progress.done == self.images:
            return
        since, enough = 0, BARRIER_BYTES[0]
        for piece in self.pool.run(self.index.files, self.job.recipe, self._chunks(journal.progress.done)):
            self._check_bad(journal, piece)
            for at, output in enumerate(outputs):
                output.lay(piece.first, piece.records["size"][:, at].tolist(), piece.blobs[at])
                since += len(piece.blobs[at])
            journal.add(piece.first, piece.records, piece.bad)
            if since >= enough:
                seconds = _sync(journal, outputs)
                slower = enough // 2 if seconds > BARRIER_SECONDS else enough * 2
                since, enough = 0, min(max(slower, BARRIER_BYTES[0]), BARRIER_BYTES[1])
            report(journal.progress.done)
        _sync(journal, outputs)

    def _chunks(self, done: int) -> Iterator[tuple[int, list[Item]]]:
        """What is left to do, in pieces of work; reading and laying down go in the same order."""
        items: list[Item] = []
        first, size = done, 0
        for position in range(done, self.images):
            sample = self._sample(position)
            file, offset, length = self.stream.places[sample].tolist()
            rows = self.index.files[file].kind == "parquet"
            if items and rows and (items[-1][0], group_of(items[-1][1])) != (file, group_of(offset)):
                yield first, items
                first, items, size = position, [], 0
            items.append((file, offset, length, self.stream.key(sample)))
            size += length
            if len(items) == (CHUNK_ROWS if rows else CHUNK_IMAGES) or size >= CHUNK_BYTES:
                yield first, items
                first, items, size = position + 1, [], 0
        if items:
            yield first, items

    def _sample(self, position: int) -> int:
        return position if self.stream.order is None else int(self.stream.order[position])

    def _check_bad(self, journal: Journal, piece: Piece) -> None:
        if not piece.bad:
            return
        position, reason = piece.bad[0]
        sample = self._sample(position)
        path = self.index.files[int(self.stream.places["file"][sample])].path
        named = f"{path}: {self.stream.key(sample)}: {reason}"
        if self.spec.write.on_bad == "fail":
            raise ConversionError(f"{named}; --write.on_bad=skip leaves such images out")
        if len(journal.progress.bad) + len(piece.bad) > self.spec.write.max_bad:
            most = self.spec.write.max_bad
            raise ConversionError(f"{named}; more than --write.max_bad={most} images of {self.stream.split} are bad")

    # ------------------------------------------------------------------------------------------ finish
    def _finish(self, journal: Journal, output: Output, at: int) -> None:
        laid = journal.progress.records[:, at]
        order = np.arange(self.images) if self.stream.order is None else np.argsort(self.stream.order)
        order = order[laid["size"][order] > 0]
        if not len(order):
            raise ConversionError(f"{self.job.paths[at].name}: not one image could be stored")
        kept = laid[order]
        samples = np.zeros(len(order), layout.SAMPLE)
        for key in ("mode", "width", "height"):
            samples["f0"][key] = kept[key]
        samples["f0"]["data_ptr"] = output.pointers[order]
        samples["f1"] = self.stream.labels[self._samples(order)]
        checksums = kept["checksum"].astype("<u8").tobytes()
        digest = output.finish(samples, kept["size"], checksums)
        record = self._manifest(journal, at, kept, output, digest, checksums)
        write_whole(manifest.checksums_of(output.path), checksums)
        manifest.write(record, manifest.path_of(output.path))
        output.partial.rename(output.path)
        sync_folder(output.path.parent)

    def _samples(self, positions: NDArray[Any]) -> NDArray[Any]:
        return positions if self.stream.order is None else self.stream.order[positions]

    def _manifest(
        self, journal: Journal, at: int, kept: NDArray[Any], output: Output, digest: str, checksums: bytes
    ) -> Manifest:
        bad = sorted((self._sample(position), reason) for position, reason in journal.progress.bad)
        return Manifest(
            version=manifest.VERSION,
            beton=output.path.name,
            images=len(kept),
            bytes=os.fstat(output.handle).st_size,
            modes={
                "jpg": int((kept["mode"] == layout.JPG).sum()),
                "raw": int((kept["mode"] == layout.RAW).sum()),
                "original": int(kept["kept"].sum()),
            },
            digest=digest,
            checksums_digest=hashlib.sha256(checksums).hexdigest(),
            classes=self.index.classes,
            sources=self.index.sources,
            skipped=tuple(Skipped(image=self.stream.key(sample), reason=reason) for sample, reason in bad),
            versions=versions(),
            **self.job.settings[at],
        )


def _resume(journal: Journal, outputs: list[Output | None]) -> None:
    """Bring every output to where the journal is; samples that were not synced are checked first."""
    progress = journal.progress
    live = [(at, output) for at, output in enumerate(outputs) if output]
    for at, output in live:
        for first in range(0, progress.done, 1 << 16):  # in parts: a million Python numbers are 60 MB
            sizes = progress.records["size"][first : min(first + (1 << 16), progress.done), at]
            output.lay(first, sizes.tolist(), None)
    done = progress.safe
    while done < progress.done and all(
        output.holds(int(output.pointers[done]), *map(int, progress.records[["size", "checksum"]][done, at]))
        for at, output in live
        if progress.records["size"][done, at]
    ):
        done += 1
    for at, output in live:
        end = output.start
        for last in range(done - 1, -1, -1):
            if size := int(progress.records["size"][last, at]):
                end = int(output.pointers[last]) + size
                break
        if done and os.fstat(output.handle).st_size < end:
            folder = output.path.parent
            raise ConversionError(
                f"{output.partial}: shorter than its journal says; remove {folder}/*.journal and {folder}/*.partial"
            )
        output.cut(done, end)
    journal.cut(done)


def _sync(journal: Journal, outputs: list[Output]) -> float:
    started = time.monotonic()
    for output in outputs:
        os.fdatasync(output.handle)
    journal.barrier()
    return time.monotonic() - started
