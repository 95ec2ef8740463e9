"""MixUp and CutMix of a batch on the device."""

import torch
from torchvision.transforms import v2


class MixupCutmix:
    """torchvision's MixUp and CutMix; the random numbers of a batch depend on its key alone."""

    def __init__(self, mixup: float | None, cutmix: float | None, classes: int) -> None:
        kinds = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
        kinds += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
        self.kinds = kinds

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, key: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed normalised ``images`` (n, 3, h, w), channels-last, and class shares (n, classes) of ``labels`` (n,)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            kind = self.kinds[int(torch.randint(len(self.kinds), ()))]
            mixed, shares = kind(images, labels)
        # MixUp gives NCHW: slower in cuDNN, and a recompilation after a batch of CutMix, which keeps the layout.
        return mixed.contiguous(memory_format=torch.channels_last), shares
