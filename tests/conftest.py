"""Archives and betons that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.images import make_sorted_tar, spec_for

# Tests run side by side; threads that spin at each other's barriers make two trainings ten times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def sorted_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 classes, 40 training and 12 validation pictures."""
    return make_sorted_tar(tmp_path_factory.mktemp("source") / "sorted.tar")


@pytest.fixture(scope="session")
def betons(tmp_path_factory: pytest.TempPathFactory, sorted_tar: Path) -> Path:
    """A folder with {train,val}_{160,320,full}.beton of `sorted_tar`; not to be changed."""
    from data_tools.convert.converter import convert

    out = tmp_path_factory.mktemp("betons")
    convert(spec_for(sorted_tar, out))
    return out
