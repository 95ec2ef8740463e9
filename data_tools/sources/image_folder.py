"""Images at `.../<split>/<class>/<file>`, in a tar or in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data_tools.beton.manifest import Source
from data_tools.common.names import from_path
from data_tools.sources.index import IndexBuilder
from data_tools.sources.tar import SourceError, members

SPLITS = {"train": "train", "val": "val", "validation": "val"}


def locate(name: str) -> tuple[str, int | None, str, str] | None:
    """(split, cap, class, file) of a path `.../[x-sz/<cap>/]<split>/<class>/<file>`; None for other paths."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if len(parts) < 3 or parts[-3] not in SPLITS or parts[-1].startswith(".") or parts[-2].startswith("."):
        return None
    resized = len(parts) >= 5 and parts[-4].isdecimal() and (parts[-5] == "sz" or parts[-5].endswith("-sz"))
    return SPLITS[parts[-3]], int(parts[-4]) if resized else None, parts[-2], parts[-1]


def read_tar(builder: IndexBuilder, path: Path) -> None:
    file = builder.file("archive", path)
    for member in members(path):
        location = locate(member.name)
        if location is None:
            builder.ignore(f"{path}: {member.name}")
        else:
            builder.add(*location, file, member.offset, member.length, member.modified)


def read_folder(builder: IndexBuilder, root: Path) -> None:
    """Add a tree of the same layout. Links are refused, as in an archive, so that nothing outside is read."""
    total, files = 0, {}
    above = "/".join(root.resolve().parts[-2:])  # the folder given may be x-sz/160
    for entry in _files_below(root):
        name = f"{above}/{os.path.relpath(entry.path, root)}"
        location = locate(from_path(name))
        if location is None:
            builder.ignore(entry.path)
            continue
        split_folder = Path(entry.path).parent.parent
        if split_folder not in files:
            files[split_folder] = builder.file("folder", split_folder)
        status = entry.stat(follow_symlinks=False)
        builder.add(*location, files[split_folder], 0, status.st_size, status.st_mtime_ns)
        total += status.st_size
    builder.sources.append(Source(name=from_path(root.resolve().name), bytes=total))


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                raise SourceError(
                    "a symbolic link, which is not followed", where=entry.path, remedy="give what it points to"
                )
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield entry
            else:
                raise SourceError("neither a file nor a folder, which is refused", where=entry.path)
