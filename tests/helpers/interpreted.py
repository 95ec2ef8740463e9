"""Triton kernels that run on the CPU, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def interpreted(name: str, monkeypatch: pytest.MonkeyPatch, changed: Path | None = None) -> ModuleType:
    """A copy of the module ``name``, or of its ``changed`` source, whose kernels are interpreted."""
    import triton.language  # not there with torch for the CPU alone

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    # Sums and the like are kernels, too, and were made for the compiler when Triton was imported.
    standard = _copy("triton.language.standard")
    for each, value in vars(triton.language).copy().items():
        if isinstance(value, triton.runtime.JITFunction) and hasattr(standard, each):
            monkeypatch.setattr(triton.language, each, getattr(standard, each))
    monkeypatch.setattr(triton.language, "standard", standard)
    return _copy(name, changed)


def _copy(name: str, source: Path | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, source) if source else importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
