"""Make files that stock FFCV wrote usable here: check every sample, and write manifest and checksums beside the file.

The file stays as it is; a link such as train_500.beton gives it the name of its set. The exit status is 1 if a file is
damaged, which is then not adopted. After an interruption, the same command continues.
"""

import codecs
import hashlib
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_tools.beton import manifest as manifests
from data_tools.beton.checks import listed, read_checksums, structure_faults
from data_tools.beton.classes import are_wnids
from data_tools.beton.format import RAW, BetonError, Layout, read_layout
from data_tools.beton.manifest import Manifest, checksums_path, manifest_path
from data_tools.beton.samples import check_samples
from data_tools.common.console import plural
from data_tools.common.errors import UserError, printable, program
from data_tools.common.files import folder_fault, locked, sync_folder, write_atomically
from data_tools.common.imagenet import IMAGENET_CLASSES
from data_tools.common.names import name_of
from data_tools.common.options import Argument, OptionError, Section, parse
from data_tools.common.resources import usable_cores
from data_tools.convert.cli import ImageProgress

SAVE_SECONDS = 30.0  # what a process that is killed loses
COMMON = 0.05  # the share of images with the largest side, if all were resized to it


class Data(Section):
    """where manifest and checksums go"""

    out: Path | None = Field(None, description="folder for manifest, checksums and links; by default the file's own")


class AdoptOptions(Section):
    files: Annotated[tuple[Path, ...], Argument("FILE.ffcv")] = Field(description="files that stock FFCV wrote")
    classes: Path | None = Field(
        None, description="text file with the name of each class, in the order of labels; by default `0`, `1`, …"
    )
    split: Literal["train", "val"] | None = Field(None, description="split of the files; by default from their names")
    workers: int | None = Field(None, ge=1, description="threads; by default one per usable core")
    data: Data = Data()


@program("data_tools.adopt")
def main(argv: Sequence[str]) -> int:
    options = parse(AdoptOptions, argv, prog="data_tools.adopt", description=__doc__ or "")
    names = None if options.classes is None else read_classes(options.classes)
    layouts = [read_layout(path) for path in dict.fromkeys(map(file_itself, options.files))]
    plans = [planned_files(layout, options) for layout in layouts]
    made = [link for _, links, _ in plans for link in links]
    for link in reversed(made):  # the name of the set is the last of its links
        if made.count(link) > 1:
            remedy = "adopt one of them with another --data.out"
            raise UserError("two of the files would get this name", where=link, remedy=remedy)
    labels = [layout.samples["f1"] for layout in layouts]
    # There are not more classes than images: a label beyond is damaged.
    limit = max(IMAGENET_CLASSES, *map(len, labels)) if names is None else len(names)
    classes = names or tuple(map(str, range(1 + max(int(each[each < limit].max(initial=0)) for each in labels))))
    sound = True
    for layout, (own, links, named) in zip(layouts, plans, strict=True):
        beyond = listed(f"has a label beyond {plural(limit, 'class')}", np.flatnonzero(layout.samples["f1"] >= limit))
        faults = structure_faults(layout.path) + [f"{layout.path}: {line}" for line in beyond]
        for fault in faults:
            print(printable(fault))
        with locked(own.parent, "an adoption"):
            sums = None if faults else checksums_of(layout, own, options.workers or usable_cores())
            if sums is None:
                print(printable(f"{layout.path}: damaged, not adopted"))
                sound = False
            else:
                write(manifest_of(layout, classes, sums, named), sums, own, links)
    return 0 if sound else 1


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of a list. Of wnids that other words follow, as in LOC_synset_mapping.txt, the wnids."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    lines = [line.strip() for line in name_of(content).strip().split("\n")]
    if "" in lines:
        raise OptionError(f"line {lines.index('') + 1} of {path} names no class", where="classes")
    first_words = tuple(line.split()[0] for line in lines)
    return first_words if are_wnids(first_words) else tuple(lines)


# ---------------------------------------------------------------------------------------------- before it is read
def file_itself(path: Path) -> Path:
    """Where ``path`` leads, if that is beside it: to a file that was adopted, its link is another name."""
    resolved = path.resolve() if path.exists() else path  # which a circle of links has no end for
    return path.with_name(resolved.name) if resolved.parent == path.parent.resolve() else path


def planned_files(layout: Layout, options: AdoptOptions) -> tuple[Path, dict[Path, str], dict[str, Any]]:
    """The file in the folder where its manifest goes, which may become a link to it; what every link leads to; split,
    cap and side. UserError where one of them is not known, or something else has the name of the set."""
    path, folder = layout.path, options.data.out or layout.path.parent
    if not len(layout.samples):
        raise BetonError("holds no samples", where=path)
    splits = set(re.findall("train|val", path.name.lower())) if options.split is None else {options.split}
    if len(splits) != 1:
        what = f"{path.name} does not say which split it is"
        raise OptionError(what, where="split", remedy="give --split=train or --split=val")
    if what := folder_fault(folder):
        raise OptionError(what, where="data.out", remedy="give a folder that can be written to")
    split, (cap, side) = splits.pop(), size_limit(path.name, layout)
    own, named, links = folder / path.name, folder / f"{split}_{cap or 'full'}.beton", dict[Path, str]()
    if folder.resolve() != path.parent.resolve():
        links[own] = str(path.resolve())
    if named != own:
        links |= {at(named): at(own).name for at in (manifest_path, checksums_path, Path)}
    for link, to in links.items():
        is_made(link, to)
    known_checksums(layout, own)
    return own, links, {"split": split, "cap": cap, "side": side}


def size_limit(name: str, layout: Layout) -> tuple[int | None, str]:
    """Largest side of the images, and which side that is: as the name says (train_500_0.50_90), or as many have it,
    by the side that more have it of. Without a limit, None."""
    image = layout.samples["f0"]
    longer, shorter = (of(image["width"], image["height"]) for of in (np.maximum, np.minimum))
    said = re.search(r"(?:train|val\w*?)_(\d+)[_.]", name.lower())
    if said and longer.max() <= int(said[1]):
        return int(said[1]), "longer"
    largest = {side: (px == px.max()).sum() for side, px in (("longer", longer), ("shorter", shorter))}
    side = max(largest, key=largest.__getitem__)
    if largest[side] > 1 and largest[side] >= COMMON * len(longer):
        return int((longer if side == "longer" else shorter).max()), side
    return None, "longer"


def is_made(link: Path, to: str) -> bool:
    """Whether this link is there. UserError if something else is."""
    if not os.path.lexists(link):
        return False
    if link.is_symlink() and str(link.readlink()) == to:
        return True
    raise UserError("already exists", where=link, remedy="remove it, or give another --data.out")


# ---------------------------------------------------------------------------------------------- reading and writing
def known_checksums(layout: Layout, own: Path) -> NDArray[np.uint64] | None:
    """The checksums of a file that was adopted; None if it was not. UserError if it changed, or was converted."""
    if not manifest_path(own).exists():
        return None
    manifest = manifests.read_manifest(own)
    if manifest.source_digest:
        raise UserError("already has the manifest of its conversion", where=own)
    return read_checksums(replace(layout, path=own), manifest)


def checksums_of(layout: Layout, own: Path, workers: int) -> NDArray[np.uint64] | None:
    """The checksum of every sample; None if one has a fault, which is printed. An adopted file is not read again, and
    an interrupted reading continues."""
    if (known := known_checksums(layout, own)) is not None:
        return known
    images, sound = len(layout.samples), True
    journal, identity = own.with_name(f"{own.name}.xxh64.partial"), _identity(layout)
    saved = journal.read_bytes() if journal.exists() else b""
    done, sums = 0, np.zeros(images, "<u8")
    if saved.startswith(identity):
        done, sums = int.from_bytes(saved[32:40], "little"), np.frombuffer(saved, "<u8", images, 40).copy()
    progress, seen, saved_at = ImageProgress(), done, time.monotonic()

    def save() -> None:
        write_atomically(journal, identity + done.to_bytes(8, "little") + sums.tobytes())

    progress.show(done, images)
    try:
        for chunk in check_samples(layout, workers, done=done):
            for fault in chunk.faults:
                print(printable(fault))
            sums[chunk.samples], seen = chunk.checksums, seen + len(chunk.samples)
            sound = sound and not chunk.faults
            done = seen if sound else done  # what follows a fault is read again
            progress.show(seen, images)
            if time.monotonic() - saved_at > SAVE_SECONDS:
                save()
                saved_at = time.monotonic()
    except BaseException:
        save()
        raise
    finally:
        progress.close()
    journal.unlink(missing_ok=True)
    if _identity(layout) != identity:
        raise BetonError("changed while it was read", where=layout.path, remedy="adopt it when it is complete")
    return sums if sound else None


def _identity(layout: Layout) -> bytes:
    """32 bytes that change with tables, size and time of modification."""
    return bytes.fromhex(layout.digest(f"{layout.path.stat().st_mtime_ns}".encode()))


def manifest_of(layout: Layout, classes: tuple[str, ...], sums: NDArray[np.uint64], named: dict[str, Any]) -> Manifest:
    """The manifest, as far as the file itself shows how it was made."""
    images, raw = len(sums), int((layout.samples["f0"]["mode"] == RAW).sum())
    return Manifest(
        **named,
        version=manifests.MANIFEST_VERSION,
        beton=layout.path.name,
        mode={0: "jpg", images: "raw"}.get(raw, "proportion"),
        raw_share=raw / images,
        images=images,
        bytes=layout.file_bytes,
        page_bytes=layout.page_bytes,
        modes={"jpg": images - raw, "raw": raw, "original": 0},
        digest=layout.digest(sums.tobytes()),
        checksums_digest=hashlib.sha256(sums.tobytes()).hexdigest(),
        classes=classes,
        sources=(manifests.Source(name=layout.path.name, bytes=layout.file_bytes),),
    )


def write(manifest: Manifest, sums: NDArray[np.uint64], own: Path, links: dict[Path, str]) -> None:
    """Links, checksums and, last, the manifest."""
    for link, to in links.items():
        if not is_made(link, to):
            link.symlink_to(to)
    write_atomically(checksums_path(own), sums.tobytes())
    manifests.write_manifest(manifest, manifest_path(own))
    sync_folder(own.parent)
    what = f"{plural(manifest.images, 'image')} of {plural(len(manifest.classes), 'class')}"
    print(printable(f"{own}: {what}, adopted as {manifest.split}_{manifest.cap or 'full'}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
