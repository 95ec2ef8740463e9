"""Check betons: their structure, in seconds for any size; with --full, every byte and every image.

Prints a line for each fault. The exit status is 0 if there is none, else 1.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_tools.beton.checks import read_checksums, structure_faults
from data_tools.beton.format import read_layout
from data_tools.beton.manifest import read_manifest
from data_tools.beton.samples import check_samples
from data_tools.common.errors import UserError, printable, program
from data_tools.common.options import Argument, Section, parse
from data_tools.common.progress_bar import ProgressDisplay
from data_tools.common.resources import usable_cores


class VerifyOptions(Section):
    files: Annotated[tuple[Path, ...], Argument("FILE.beton")] = Field(description="betons to check")
    full: bool = Field(False, description="also compare every checksum and decode every image")
    workers: int | None = Field(None, ge=1, description="threads for `--full`; by default one per usable core")


@program("data_tools.verify")
def main(argv: Sequence[str]) -> int:
    options = parse(VerifyOptions, argv, prog="data_tools.verify", description=__doc__)
    sound = True
    for path in options.files:
        whole = True
        for fault in verify(path, full=options.full, workers=options.workers or usable_cores()):
            print(printable(fault))
            whole = False
        if whole:
            how = "" if options.full else " in structure (--full checks every image)"
            print(printable(f"{path}: sound{how}"))
        sound &= whole
    return 0 if sound else 1


def verify(path: Path, *, full: bool = False, workers: int = 1) -> Iterator[str]:
    """Yield a line for every fault of a beton."""
    manifest = None
    try:
        manifest = read_manifest(path)
    except UserError as error:
        yield str(error)
        if not path.exists():
            return
    faults = structure_faults(path, manifest)
    yield from faults
    if faults:
        return  # the checks below trust the tables
    layout = read_layout(path)
    checksums = None
    if manifest is not None:
        try:
            checksums = read_checksums(layout, manifest)
        except UserError as error:
            yield str(error)
    if not full:
        return
    progress, done = ProgressDisplay(), 0
    progress.begin(len(layout.samples), name=path.name)
    try:
        classes = manifest.classes if manifest else ()
        for chunk in check_samples(layout, workers, checksums=checksums, classes=classes):
            yield from chunk.faults
            done += len(chunk.samples)
            progress.advance(done)
    finally:
        progress.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
