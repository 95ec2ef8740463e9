"""The device of the tests in this folder: the first GPU.

With GPU_TESTS_ON=cpu a CPU stands in, so that the tests themselves can be tried without a GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

KIND = os.environ.get("GPU_TESTS_ON", "cuda")


@pytest.fixture(scope="session")
def device() -> torch.device:
    if KIND == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device("cuda", 0) if KIND == "cuda" else torch.device(KIND)
