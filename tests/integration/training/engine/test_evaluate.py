"""cuDNN is tuned only for shapes that come again."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from training.distributed.world import World
from training.engine.evaluate import evaluate
from training.engine.step import Predictor

CPU = torch.device("cpu")
ALONE = World(device=CPU)


class Loader(SimpleNamespace):
    """Batches of these sizes, of loaders of `batch`."""

    def __iter__(self):
        return iter(
            [(torch.zeros(n, 3, 4, 4, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)) for n in self.sizes]
        )


@pytest.mark.parametrize(
    ("sizes", "rectangular", "tuned"),
    [([4, 4, 2], False, [True, True, False]), ([4, 4, 2], True, [False] * 3), ([4, 4], False, [True, True])],
)
def test_the_ragged_last_batch_is_not_tuned_for(
    sizes: list[int], rectangular: bool, tuned: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    class Watched(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found.append(torch.backends.cudnn.benchmark)
            return super().forward(images.flatten(1))

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    loader = Loader(sizes=sizes, batch=4, rounds=len(sizes), rectangular=rectangular)
    assert evaluate(Predictor(Watched(48, 2), torch.float32, CPU), loader, ALONE).images == sum(sizes)
    assert found == tuned
    assert torch.backends.cudnn.benchmark
