"""The tables of a run, ``epochs.csv`` and ``steps.csv``: rows are only ever appended."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.common.files import append_whole, warn_on_write_error, write_atomically
from data_tools.common.options import OptionError

COUNTS = {"epoch", "batch", "px", "global_batch"}  # the other columns are fractions


class CsvLog:
    """Appends rows to the table at ``path``, which keeps its first ``length`` bytes: those that it had when the
    checkpoint was saved that the run continues from. 0, or a file that is not there, begins it anew with ``lines``.

    Rows that cannot be written, as to a full disk, are written with the next ones.
    """

    def __init__(self, path: Path, columns: Sequence[str], length: int = 0, lines: Sequence[str] = ()) -> None:
        self.path = path
        self._unwritten = ""
        self.length = min(length, path.stat().st_size) if path.is_file() else 0
        if self.length:
            os.truncate(path, self.length)
        else:
            begun = "".join(f"{line}\n" for line in (",".join(columns), *lines)).encode()
            write_atomically(path, begun)
            self.length = len(begun)

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        self._unwritten += "".join(f"{','.join(cells)}\n" for cells in rows)
        with warn_on_write_error(self.path.name):
            append_whole(self.path, self._unwritten.encode())
            self.length += len(self._unwritten)
            self._unwritten = ""


def numbers(cells: Mapping[str, str]) -> dict[str, Any]:
    """The cells of a row by column, as numbers."""
    return {column: int(cell) if column in COUNTS else float(cell) for column, cell in cells.items()}


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the table at ``path``, numbers by column. OptionError if it is damaged.

    A last line without its end is still being written, and left out.
    """
    rows: list[dict[str, Any]] = []
    try:
        text = path.read_text(encoding="utf-8-sig")  # a spreadsheet may have saved it
        table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), strict=True)
        if missing := set(columns) - set(table.fieldnames or ()):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        for cells in table:
            if None in cells or None in cells.values():
                raise ValueError(f"not {len(columns)} cells")
            rows.append(numbers({column: cells[column] for column in columns}))
    except (ValueError, csv.Error) as error:
        what = f"damaged, or of another version (row {len(rows) + 1}: {error})"
        raise OptionError(what, where=path, remedy="restore it, or remove it") from None
    return rows
