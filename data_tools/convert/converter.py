"""The conversion: read and decode every image once, and write all sizes in order, complete or resumable.

Data goes to NAME.beton.partial while a journal records what is written; the same command continues from there.
A complete file is synced, its checksums and manifest are written, and then it is renamed to its final name.
The bytes depend only on the source and the options: not on the number of workers, the run or an interruption.
"""

import contextlib
import hashlib
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.beton.format import JPG, RAW, SAMPLE
from data_tools.beton.manifest import MANIFEST_VERSION, Manifest, Skipped, read_manifest
from data_tools.beton.writer import BetonWriter
from data_tools.common.console import plural
from data_tools.common.errors import printable
from data_tools.common.files import locked
from data_tools.convert import estimate
from data_tools.convert.config import WriteSpec
from data_tools.convert.image_pool import ImagePool, Item, ResultChunk
from data_tools.convert.journal import Journal
from data_tools.convert.plan import (
    ConversionError,
    ConversionPass,
    class_difference,
    plan,
    remove_finished_journals,
    remove_journal,
    versions,
)
from data_tools.sources.index import SPLITS, Index
from data_tools.sources.scan import read_index

CHUNK_IMAGES = 16  # that are stored together
CHUNK_BYTES = 4 << 20
SYNC_BYTES = (8 << 20, 256 << 20)  # written between two syncs, at least and at most
SYNC_SECONDS = 1.0  # what a sync should take at most: a signal waits for it

ProgressCallback = Callable[[int, int], None]  # images written, images in all
PrintLine = Callable[[str], None]  # for the lines before the progress bar


def ignore(*_: object) -> None:
    """In place of a callback that is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One beton, written now or found complete (then it took no seconds)."""

    path: Path
    images: int
    bad: int  # images that are left out
    bytes: int  # of the file; its last page is padded with zeros
    seconds: float


def convert(spec: WriteSpec, *, report: ProgressCallback = ignore, print_line: PrintLine = ignore) -> list[Summary]:
    """Write the betons. Raises ConversionError, SourceError, JournalError or OSError."""
    data = spec.data
    index = read_index(
        data.source,
        splits=data.splits or SPLITS,
        follow_links=data.follow_links,
        max_left_out=data.max_left_out,
        image_column=data.image_column,
        label_column=data.label_column,
    )
    print_line(_describe(index))
    with locked(spec.data.out, "a conversion"):
        remove_finished_journals(index, spec)
        passes = plan(index, spec)
        if difference := class_difference(index):
            print_line(f"note: {difference}")
        kept = [path for p in passes for path in (*p.kept, *(beton.path for beton in p.betons if p.is_done))]
        summaries = list(map(_summary, kept))
        passes = [p for p in passes if not p.is_done]
        if passes:
            summaries += _write(passes, index, spec, report, print_line)
    return sorted(summaries, key=lambda summary: summary.path)


def _write(
    passes: list[ConversionPass], index: Index, spec: WriteSpec, report: ProgressCallback, print_line: PrintLine
) -> list[Summary]:
    summaries, before, total = [], 0, sum(len(planned.split_index) for planned in passes)
    with ImagePool(spec.write.threads) as pool:
        estimates = [beton for planned in passes for beton in estimate.estimate(planned, index, pool)]
        print_line(estimate.table(estimates, spec.data.out))
        estimate.check_room(estimates, spec.data.out)
        for planned in passes:
            job = ConversionJob(planned, index, spec, pool)
            summaries += job.run(lambda done, before=before: report(before + done, total))  # type: ignore[misc]
            before += len(planned.split_index)
    return summaries


def _describe(index: Index) -> str:
    counts = ", ".join(
        f"{len(part):,} {part.split}{f' at {part.cap}' if part.cap else ''}" for part in index.split_indexes
    )
    lines = [f"{counts} images of {plural(len(index.classes), 'class')}", *index.notes]
    return "\n".join(map(printable, lines))


def _summary(path: Path, seconds: float = 0.0) -> Summary:
    manifest = read_manifest(path)
    return Summary(path=path, images=manifest.images, bad=len(manifest.skipped), bytes=manifest.bytes, seconds=seconds)


class ConversionJob:
    """Runs one pass from where its journal left off until its betons have their final names."""

    def __init__(self, planned: ConversionPass, index: Index, spec: WriteSpec, pool: ImagePool) -> None:
        self.planned, self.index, self.spec, self.pool = planned, index, spec, pool
        self.split_index = planned.split_index
        self.images = len(planned.split_index)
        self.outputs: dict[int, BetonWriter] = {}  # by column of the results
        self.bad: dict[int, str] = {}  # why an image could not be stored, by position

    def run(self, report: Callable[[int], None]) -> list[Summary]:
        started = time.monotonic()
        betons = self.planned.betons
        with contextlib.ExitStack() as opened:
            self.journal = Journal(self.planned.journal, self.planned.identity, self.images, len(betons))
            opened.callback(self.journal.close)
            for column, beton in enumerate(betons):
                if not beton.done:  # one may have been completed before
                    output = BetonWriter(beton.path, self.images, beton.settings["page_bytes"])
                    opened.callback(output.close)
                    self.outputs[column] = output
            self._resume()
            self._write_samples(report)
            for column in self.outputs:
                self._finish(column)
        remove_journal(self.planned.journal, [beton.path for beton in betons])
        seconds = time.monotonic() - started
        return [_summary(beton.path, 0.0 if beton.done else seconds) for beton in betons]

    def _resume(self) -> None:
        """Bring every output to where the journal ends, after comparing what may not have reached the disk."""
        journal, sizes = self.journal, self.journal.records["size"]
        for column, output in self.outputs.items():
            for first in range(0, journal.done, 1 << 16):  # in parts: a million Python numbers are 60 MB
                output.append(first, sizes[first : min(first + (1 << 16), journal.done), column].tolist(), None)
        unsynced = np.cumsum(sizes[: journal.done][::-1].sum(axis=1, dtype=np.int64))[::-1] <= 2 * SYNC_BYTES[1]
        done = journal.done - int(unsynced.sum())
        while done < journal.done and all(
            output.matches(int(output.pointers[done]), *map(int, journal.records[["size", "checksum"]][done, column]))
            for column, output in self.outputs.items()
        ):
            done += 1
        for column, output in self.outputs.items():
            stored = np.flatnonzero(sizes[:done, column])
            end = int(output.pointers[stored[-1]]) + int(sizes[stored[-1], column]) if len(stored) else output.start
            if done and os.fstat(output.handle).st_size < end:
                folder = shlex.quote(str(output.path.parent))
                remedy = f"remove {folder}/*.journal and {folder}/*.partial"
                raise ConversionError("shorter than its journal says", where=output.partial, remedy=remedy)
            output.truncate(done, end)
        journal.truncate(done)
        bad = [position for position in range(done) if not sizes[position].any()]
        self.bad |= {position: reason for chunk in self._stored(bad) for position, reason in chunk.bad}

    # ------------------------------------------------------------------------------------------ samples
    def _write_samples(self, report: Callable[[int], None]) -> None:
        journal = self.journal
        report(journal.done)
        unsynced, limit = 0, SYNC_BYTES[0]
        for chunk in self._stored(range(journal.done, self.images)):
            self._check_bad(chunk)
            for column, output in self.outputs.items():
                sizes = chunk.records["size"][:, column].tolist()
                output.append(journal.done, sizes, memoryview(chunk.blobs[column]))  # type: ignore[arg-type]
                unsynced += len(chunk.blobs[column])
            journal.add(chunk.records)
            if unsynced >= limit:
                seconds = self._sync()
                adjusted = limit // 2 if seconds > SYNC_SECONDS else limit * 2
                unsynced, limit = 0, min(max(adjusted, SYNC_BYTES[0]), SYNC_BYTES[1])
            report(journal.done)
        self._sync()

    def _sync(self) -> float:
        started = time.monotonic()
        for output in self.outputs.values():
            os.fdatasync(output.handle)
        self.journal.sync()
        return time.monotonic() - started

    def _stored(self, positions: Sequence[int]) -> Iterator[ResultChunk]:
        """The images at these positions, stored in memory, in order."""
        return self.pool.run(self.index.files, self.planned.storage, self._chunks(positions))

    def _chunks(self, positions: Sequence[int]) -> Iterator[list[Item]]:
        items: list[Item] = []
        size = 0
        for position in positions:
            sample = self._sample(position)
            file, offset, length = self.split_index.places[sample].tolist()
            items.append((position, file, offset, length, self.split_index.key(sample)))
            size += length
            if len(items) == CHUNK_IMAGES or size >= CHUNK_BYTES:
                yield items
                items, size = [], 0
        if items:
            yield items

    def _sample(self, positions: Any) -> Any:
        """The sample at a position in the order of writing, or those at several."""
        return positions if self.split_index.order is None else self.split_index.order[positions]

    def _check_bad(self, chunk: ResultChunk) -> None:
        if not chunk.bad:
            return
        self.bad |= dict(chunk.bad)
        position, reason = chunk.bad[0]
        sample = self._sample(position)
        path = self.index.files[int(self.split_index.places["file"][sample])].path
        what = f"{self.split_index.key(sample)}: {reason}"
        if self.spec.write.on_bad == "fail":
            raise ConversionError(what, where=path, remedy="--write.on_bad=skip leaves such images out")
        if len(self.bad) > self.spec.write.max_bad:
            what += f"; more than --write.max_bad={self.spec.write.max_bad} images of {self.split_index.split} are bad"
            raise ConversionError(what, where=path)

    # ------------------------------------------------------------------------------------------ finish
    def _finish(self, column: int) -> None:
        records, output = self.journal.records[:, column], self.outputs[column]
        order = np.arange(self.images) if self.split_index.order is None else np.argsort(self.split_index.order)
        order = order[records["size"][order] > 0]
        if not len(order):
            raise ConversionError("no image could be stored", where=output.path.name)
        records = records[order]
        samples = np.zeros(len(order), SAMPLE)
        for key in ("mode", "width", "height"):
            samples["f0"][key] = records[key]
        samples["f0"]["data_ptr"] = output.pointers[order]
        samples["f1"] = self.split_index.labels[self._sample(order)]
        checksums = records["checksum"].astype("<u8").tobytes()
        digest = output.finish(samples, records["size"], checksums)
        output.rename(self._manifest(column, records, digest, checksums), checksums)

    def _manifest(self, column: int, records: NDArray[Any], digest: str, checksums: bytes) -> Manifest:
        bad = sorted((self._sample(position), reason) for position, reason in self.bad.items())
        return Manifest(
            version=MANIFEST_VERSION,
            beton=self.outputs[column].path.name,
            images=len(records),
            bytes=os.fstat(self.outputs[column].handle).st_size,
            modes={
                "jpg": int((records["mode"] == JPG).sum()),
                "raw": int((records["mode"] == RAW).sum()),
                "original": int(records["kept"].sum()),
            },
            digest=digest,
            checksums_digest=hashlib.sha256(checksums).hexdigest(),
            classes=self.index.classes,
            sources=self.index.sources,
            skipped=tuple(Skipped(image=self.split_index.key(sample), reason=reason) for sample, reason in bad),
            versions=versions(),
            **self.planned.betons[column].settings,
        )
