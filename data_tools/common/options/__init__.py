"""Options of every program: frozen dataclasses in; a command line and YAML files in, one typed dataclass out.

fastargs holds the sections and merges files and the command line; where it is lax, this package is strict. fastargs
silently drops unknown keys, lets environment variables override the command line, calls every non-empty string a true
boolean and exits 0 on a validation error. Here the error for an unknown key gives the nearest valid one, the variables
are ignored, options cannot be abbreviated, and every mistake is an `OptionError` that names the key.

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Write:
        quality: int = option(90, "JPEG quality", low=1, high=100)

        def __post_init__(self) -> None:
            check(self)

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Convert:
        write: Write = Write()                                    # a section: --write.quality=80
        dry_run: bool = option(False, "write nothing")            # an option of its own: --dry_run
        sources: tuple[Path, ...] = option(REQUIRED, "what to read", argument="SOURCE")  # a word without a name

    options = parse(Convert, sys.argv[1:], prog="convert.py", description="...")

Field types: bool, int, float, str, Path, Literal[...], X | None, tuple[X, ...] (comma-separated), and list, dict or
object for YAML structures, which are passed through untouched. An option is described in its `option(...)` and
nowhere else: `--help` (`help_text`) and the tables of docs/ (`option_rows`) are made from it.
"""

from data_tools.common.options.command_line import parse
from data_tools.common.options.declaration import REQUIRED, Entry, OptionError, entries, nearest, option, sections
from data_tools.common.options.help import help_text, option_rows, option_table
from data_tools.common.options.values import check, convert

__all__ = [
    "REQUIRED",
    "Entry",
    "OptionError",
    "check",
    "convert",
    "entries",
    "help_text",
    "nearest",
    "option",
    "option_rows",
    "option_table",
    "parse",
    "sections",
]
