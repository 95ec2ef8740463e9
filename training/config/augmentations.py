"""The entries of `data.augment`: names from two packages, with plain values."""

from collections.abc import Mapping
from typing import Any

from pydantic import field_validator, model_serializer, model_validator

from data_tools.common.options import OptionError, Section

HOST, DEVICE = "ffcv.transforms", "torchvision.transforms.v2"
PLAIN = (bool, int, float, str, type(None))


class Augmentation(Section):
    """A class of an allowed package, and what it is made with: ``{ffcv.transforms.Cutout: {crop_size: 8}}``. Nothing is
    imported."""

    name: str
    arguments: dict[str, Any]

    @property
    def on_host(self) -> bool:
        return self.name.startswith(HOST)

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, entry: Any) -> Any:
        entry = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or len(entry) != 1:
            remedy = "give one, such as ffcv.transforms.Cutout: {crop_size: 8}"
            raise OptionError(f"{entry!r} is not one name with its arguments", remedy=remedy)
        ((name, arguments),) = entry.items()
        return {"name": name, "arguments": {} if arguments is None else arguments}

    @field_validator("name")
    @classmethod
    def _is_a_class(cls, name: str) -> str:
        package, _, kind = name.rpartition(".")
        if package not in (HOST, DEVICE) or not kind.isidentifier() or kind.startswith("_"):
            raise OptionError(f"{name!r} is not allowed", remedy=f"give a class of {HOST} or of {DEVICE}")
        return name

    @field_validator("arguments")
    @classmethod
    def _are_plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for key, value in arguments.items():
            if not all(isinstance(each, PLAIN) for each in (value if isinstance(value, list) else [value])):
                raise OptionError(f"{value!r} is not a plain value or a list of them", where=key)
        return arguments

    @model_serializer
    def _as_given(self) -> dict[str, Any]:
        return {self.name: self.arguments}
