"""What options are declared with, and what their values may be given as."""

import os
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from data_tools.common.files import check_output

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
NO_VALUE = ("", "none", "null", "off")  # None as text


@dataclass(frozen=True)
class Argument:
    """Marks an option that is a word without a name; ``placeholder`` stands for it in the usage."""

    placeholder: str


def _may_be_drawn(path: Path) -> Path:
    check_output(path, *PICTURES)
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"unknown file extension {path.suffix!r}; give a .png")
    return path


Picture = Annotated[Path, AfterValidator(_may_be_drawn)]  # a file to draw into


class Section(BaseModel):
    """Options that belong together, or all options of a program.

    Values may be text, as on a command line. Made in code, a section with a mistake raises pydantic's ValidationError;
    `parse` raises OptionError.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # YAML reads a bare 160 as a number
        validate_by_name=True,
        validate_by_alias=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        return as_meant(value, cls.model_fields[str(info.field_name)].annotation)


def as_meant(value: Any, kind: Any) -> Any:
    """``value`` as pydantic is to convert it to ``kind``; ValueError for what it would take for something else."""
    kinds, item = set(leaves(kind)), item_of(kind)
    if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"{value!r} holds a NUL character")
        if Path in kinds and not value.strip(" ," if item else None):
            raise ValueError("empty, perhaps from an unset variable; give a path")
        if type(None) in kinds and value.strip().lower() in NO_VALUE:
            return None
    if item and not section_in(item) and not isinstance(value, dict | None):
        if isinstance(value, str):
            value = [part for part in _parts(value, item) if part]
        return [as_meant(each, item) for each in (value if isinstance(value, list | tuple) else [value])]
    return _path(str(value)) if Path in kinds and type(value) in (str, int) else value


def leaves(kind: Any) -> Iterator[Any]:
    """The types that a value of type ``kind`` may have; of a tuple, those of its items."""
    if typing.get_origin(kind) is Literal or not typing.get_args(kind):
        yield kind
    else:
        for each in typing.get_args(kind):
            yield from leaves(each)


def section_in(kind: Any) -> type[Section] | None:
    """The section that ``kind`` is, may be, or is a tuple of."""
    return next((each for each in leaves(kind) if isinstance(each, type) and issubclass(each, Section)), None)


def item_of(kind: Any) -> Any:
    """The type of the items if ``kind`` is a tuple, or may be one."""
    kinds = (kind, *typing.get_args(kind))
    return next((typing.get_args(each)[0] for each in kinds if typing.get_origin(each) is tuple), None)


def _parts(text: str, item: Any) -> Iterator[str]:
    """What is between commas; a path that exists with a comma in its name is one."""
    rest = text.split(",")
    while rest:
        joined = (",".join(rest[:count]) for count in range(len(rest), 1, -1) if item is Path)
        # os.path: to pathlib, a long list is an error and not a name that does not exist.
        whole = next((name for name in joined if os.path.exists(_path(name))), rest[0])  # noqa: PTH110
        yield whole.strip()
        rest = rest[whole.count(",") + 1 :]


def _path(text: str) -> Path:
    """``~`` expanded, which the shell does only at the start of a word and not in `--data.source=~/x`; a user that does
    not exist is left, unlike by pathlib."""
    return Path(os.path.expanduser(text.strip()))  # noqa: PTH111


def sections_of(schema: type[Section]) -> dict[str, type[Section]]:
    kinds = {name: field.annotation for name, field in schema.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def options_of(schema: type[Section]) -> dict[str, FieldInfo]:
    """Every option of a schema by its key on the command line; those without a section come first."""
    sections = sections_of(schema)
    own = {name: field for name, field in schema.model_fields.items() if name not in sections}
    return own | {
        f"{section}.{name}": field for section, kind in sections.items() for name, field in kind.model_fields.items()
    }


def shown(key: str, field: FieldInfo) -> str:
    """An option as it is given: ``--key``, or the placeholder of a word without a name."""
    return next((each.placeholder for each in field.metadata if isinstance(each, Argument)), f"--{key}")
