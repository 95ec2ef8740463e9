"""One training step and one prediction: uint8 images in, everything on the device, nothing waited for."""

from __future__ import annotations

import torch
from torch import nn

from training.config import Train
from training.metrics import Tally

# Channel means and standard deviations of ImageNet's training images, in units of the uint8 pixels.
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class Normalise(nn.Module):
    """uint8 images (n, 3, h, w) to ``dtype``, zero mean and unit variance, in one fused operation."""

    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        mean, std = (torch.tensor(v, device=device, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
        self.register_buffer("scale", (1 / std).to(dtype), persistent=False)
        self.register_buffer("bias", (-mean / std).to(dtype), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias, images, self.scale)


class Predictor:
    """Images to logits in the run's precision."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.model = model
        self.dtype = dtype
        self.device = device
        self.normalise = Normalise(dtype, device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes), fp32, of uint8 ``images`` (n, 3, h, w)."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits: torch.Tensor = self.model(self.normalise(images))
        return logits.float()


class TrainStep:
    """Forward, backward and update of one batch."""

    def __init__(self, predict: Predictor, optimizer: torch.optim.SGD, options: Train) -> None:
        self.predict = predict
        self.optimizer = optimizer
        self.loss = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
        self.fixed_scale = None if options.loss_scale == "dynamic" else float(options.loss_scale)
        self.scaler = torch.amp.GradScaler(
            predict.device.type,
            init_scale=self.fixed_scale or 2.0**16,
            enabled=predict.dtype == torch.float16,
        )

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, lr: float, tally: Tally) -> None:
        """Train on uint8 ``images`` (n, 3, px, px) and ``labels`` (n,) at rate ``lr``; counts go to ``tally``."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        logits = self.predict(images)
        loss = self.loss(logits, labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        # A given number keeps the published static scale; without one the scaler adapts.
        self.scaler.update(self.fixed_scale)
        self.optimizer.zero_grad(set_to_none=True)
        tally.add(logits, labels, loss)
