"""The tables of a run, ``epochs.csv`` and ``steps.csv``: rows are only ever appended."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.common.files import append_whole, warn_on_write_error, write_atomically
from data_tools.common.options import OptionError

COUNTS = {"epoch", "batch", "px", "global_batch"}  # the other columns are fractions


class GrowingFile:
    """A file that is only ever appended to. What cannot be written, as to a full disk, is written with what follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten = b""

    def append(self, content: bytes) -> None:
        self._unwritten += content
        with warn_on_write_error(self.path.name):
            append_whole(self.path, self._unwritten)
            self._unwritten = b""


class CsvLog(GrowingFile):
    """Appends rows to the table at ``path``, which keeps its first ``rows``: those that it had when the checkpoint was
    saved that the run continues from. 0, or a file that is not there, begins it anew with ``lines``."""

    def __init__(self, path: Path, columns: Sequence[str], rows: int = 0, lines: Sequence[str] = ()) -> None:
        super().__init__(path)
        kept = [line.encode() for line in (",".join(columns), *lines)]
        if rows and path.is_file():
            kept = path.read_bytes().splitlines()[: rows + 1] or kept  # lines, as a spreadsheet ends them otherwise
        write_atomically(path, b"".join(line + b"\n" for line in kept))
        self._rows = len(kept) - 1

    @property
    def rows(self) -> int:
        """Rows in the file."""
        return self._rows - self._unwritten.count(b"\n")

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        lines = [f"{','.join(cells)}\n" for cells in rows]
        self._rows += len(lines)
        self.append("".join(lines).encode())


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
