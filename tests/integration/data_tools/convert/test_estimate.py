"""The estimate of a conversion against what it then writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.images import spec_for

from data_tools.convert import estimate, plan
from data_tools.convert.converter import convert
from data_tools.convert.image_pool import ImagePool
from data_tools.sources.scan import read_index


def test_estimate_is_near_the_bytes_written(tmp_path: Path, sorted_tar: Path) -> None:
    lines: list[str] = []
    spec = spec_for(sorted_tar, tmp_path, mode="proportion")
    index = read_index(spec.data.source)
    with ImagePool(1) as pool:
        found = {
            each.path.name: each for todo in plan.plan(index, spec) for each in estimate.estimate(todo, index, pool)
        }
    convert(spec, print_line=lines.append)
    assert any("all raw" in line for line in lines)
    for path in tmp_path.glob("train*.beton"):
        # Whole pages: a beton of a few images has two, one of them for its tables.
        assert found[path.name].bytes == pytest.approx(path.stat().st_size, rel=0.05)
        assert found[path.name].bytes_jpg <= found[path.name].bytes <= found[path.name].bytes_raw
        assert found[path.name].minutes > 0
