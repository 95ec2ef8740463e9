"""Options of every program: pydantic models in; a command line and YAML files in, one typed configuration out.

fastargs collects sections, files and the command line; pydantic judges what it collected. Where fastargs is lax, this
package is not: it silently drops unknown keys, lets environment variables override the command line, calls every
non-empty string a true boolean and exits 0 on a validation error. Here the error for an unknown key gives the nearest
valid one, the variables are ignored, options cannot be abbreviated, and every mistake is an `OptionError` that names
the key.

    class Write(Section):
        \"\"\"how it is written\"\"\"

        quality: int = Field(90, ge=1, le=100, description="JPEG quality")

    class Convert(Section):
        \"\"\"One conversion.\"\"\"

        write: Write = Write()                                            # a section: --write.quality=80
        dry_run: bool = Field(False, description="write nothing")         # an option of its own: --dry_run
        sources: Annotated[tuple[Path, ...], Argument("SOURCE")] = Field(description="what to read")  # without a name

    options = parse(Convert, sys.argv[1:], prog="convert.py", description="...")

An option is described in its `Field` and nowhere else: `--help` (`help_text`) and the tables of docs/ (`option_rows`)
are made from it.
"""

from data_tools.common.options.command_line import parse
from data_tools.common.options.help import option_rows
from data_tools.common.options.mistakes import OptionError, mistakes_in, nearest
from data_tools.common.options.section import Argument, Picture, Section, as_meant, options_of, sections_of

__all__ = [
    "Argument",
    "OptionError",
    "Picture",
    "Section",
    "as_meant",
    "mistakes_in",
    "nearest",
    "option_rows",
    "options_of",
    "parse",
    "sections_of",
]
