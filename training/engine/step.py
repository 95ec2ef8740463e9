"""One training step and one prediction: uint8 images in, all work on the device, no waiting for it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data_tools.common.options import OptionError
from training.config.train_config import Train
from training.engine.compilation import WITHOUT_CUDA_GRAPHS, cache_counts, compile_mode, reporting_damaged_cache
from training.engine.metrics import MetricSums
from training.model.layers import batch_counts
from training.model.loss import training_loss
from training.model.mixing import MixupCutmix

logger = logging.getLogger(__name__)

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


class Predictor(nn.Module):
    """Images to logits in the run's precision; with ``flip``, the mean over each image and its mirror image."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device, flip: bool = False) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.device_type = device.type
        self.flip = flip
        self.normalise = Normalise(dtype, device)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes), at least fp32, of ``images`` (n, 3, h, w), uint8 or already normalised."""
        if images.dtype == torch.uint8:
            images = self.normalise(images)
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype.itemsize < 4):
            logits: torch.Tensor = self.model(images)
            if self.flip:
                logits = (logits + self.model(images.flip(3))) / 2
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class LossModule(nn.Module):
    """Images and labels to the loss and the logits: the part of a step that is differentiated and compiled."""

    def __init__(self, predict: Predictor, label_smoothing: float, kind: str = "cross_entropy") -> None:
        super().__init__()
        self.predict = predict
        self.loss = training_loss(kind, label_smoothing)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.predict(images)
        return self.loss(logits, labels), logits


class Statistics:
    """The buffers of a module's BatchNorms, which a forward pass changes even if its step is skipped."""

    def __init__(self, module: nn.Module) -> None:
        buffers = [
            b
            for part in module.modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            for b in part.buffers(recurse=False)
        ]
        self.by_dtype = [[b for b in buffers if b.dtype == dtype] for dtype in dict.fromkeys(b.dtype for b in buffers)]

    def copy(self) -> list[torch.Tensor]:
        """All of them, in one tensor per dtype."""
        return [torch.cat([buffer.reshape(-1) for buffer in group]) for group in self.by_dtype]

    def put_back(self, before: list[torch.Tensor], where: torch.Tensor) -> None:
        """Restore a copy if ``where``, a boolean on the device, is true. Does not wait for it."""
        for group, old, new in zip(self.by_dtype, before, self.copy(), strict=True):
            values = torch.where(where, old, new).split([buffer.numel() for buffer in group])
            torch._foreach_copy_(group, [value.view_as(b) for value, b in zip(values, group, strict=True)])


class TrainStep:
    """Forward, backward and update of one batch, accumulated over ``accumulation_steps`` parts."""

    def __init__(
        self,
        loss_module: LossModule,
        optimizer: torch.optim.Optimizer,
        options: Train,
        *,
        parallel: nn.Module | None = None,
        accumulation_steps: int = 1,
        mixing: MixupCutmix | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.loss_module = loss_module
        self.model, self.dtype = loss_module.predict.model, loss_module.predict.dtype
        self.parallel: nn.Module = parallel or loss_module
        self.forward: Callable[..., tuple[torch.Tensor, torch.Tensor]] = self.parallel
        self.optimizer = optimizer
        begin_momentum(optimizer)
        self.statistics = Statistics(loss_module)
        self.batch_counts = batch_counts(loss_module)
        self.accumulation_steps = accumulation_steps
        self.mixing = mixing
        self.rank, self.ranks = rank, ranks
        device = next(loss_module.parameters()).device
        self.bad_steps = torch.zeros((), dtype=torch.int64, device=device)
        self.longest_bad_run = torch.zeros((), dtype=torch.int64, device=device)
        self.compile_mode = compile_mode(options, loss_module.predict.device_type, accumulation_steps)
        if options.compile in WITHOUT_CUDA_GRAPHS and self.compile_mode != options.compile:
            logger.info(
                "note: train.compile=%s uses CUDA graphs, which cannot accumulate gradients for dist.emulate_gpus; the "
                "step is compiled as %s",
                options.compile,
                self.compile_mode,
            )
        self.clip_norm = options.clip_norm
        self.fixed_scale = None if options.loss_scale == "dynamic" else float(options.loss_scale)
        self.scaler = torch.amp.GradScaler(
            loss_module.predict.device_type,
            init_scale=self.fixed_scale or 2.0**16,
            enabled=self.dtype == torch.float16,
        )

    def prepare(self, px: int, batch: int, device: torch.device) -> bool:
        """Compile and tune for batches of this shape, without changing weights or statistics.

        Returns whether code was compiled; Inductor's cache on disk may have had it all. UserError if it is damaged.
        """
        before, statistics = cache_counts(), self.statistics.copy()
        if self.compile_mode is not None:
            torch._dynamo.reset()  # drop the compiled code of the previous phase, and the memory of its CUDA graphs
            self.forward = torch.compile(self.parallel, dynamic=False, mode=self.compile_mode)
        free_cached_memory(device)
        images = torch.zeros(batch, 3, px, px, dtype=torch.uint8, device=device)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        self.parallel.train()
        # With CUDA graphs the first run only warms up and the second records; the third is the first that replays.
        try:
            for _ in range(3 if self.compile_mode in WITHOUT_CUDA_GRAPHS else 1):
                with reporting_damaged_cache():
                    self._accumulate(images, labels, 0, MetricSums(device))
                self.optimizer.zero_grad(set_to_none=True)
        except RuntimeError as error:
            kernel, _, said = str(error).partition(" does not have a deterministic implementation")
            if not said:
                raise
            what = f"torch's {kernel} is not deterministic"
            remedy = "give --run.deterministic=false, or another network"
            raise OptionError(what, where="run.deterministic", remedy=remedy) from None
        self.statistics.put_back(statistics, torch.ones((), dtype=torch.bool, device=device))
        found, missed = (now - then for now, then in zip(cache_counts(), before, strict=True))
        return self.compile_mode is not None and (missed > 0 or not found)

    def __call__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        lr: float,
        sums: MetricSums,
        key: int = 0,
        momentum: float | None = None,
    ) -> torch.Tensor:
        """Train on uint8 ``images`` (n, 3, px, px) and ``labels`` (n,) at rate ``lr``; metrics go to ``sums``.

        Returns their mean loss () before the update, on the device.

        ``momentum``: None for that of the optimizer. ``key``: number of the global batch. All random numbers are drawn
        from it and the position in that batch, so it does not matter how many processes share the batch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            group["momentum"] = group["momentum"] if momentum is None else momentum
        before = self.statistics.copy() if self.scaler.is_enabled() else None
        loss = self._accumulate(images, labels, key, sums)
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.loss_module.parameters(), self.clip_norm, foreach=True)
        if self.batch_counts:
            torch._foreach_add_(self.batch_counts, self.accumulation_steps)
        self.scaler.step(self.optimizer)
        bad = ~torch.isfinite(loss)
        if before is not None:
            overflows = self.scaler._found_inf_per_device(self.optimizer).values()
            skipped = sum(overflows, torch.zeros_like(loss)) > 0
            self.statistics.put_back(before, skipped)
            bad |= skipped
        self._count(bad)
        # A number is the published static scale; None lets the scaler adapt.
        self.scaler.update(self.fixed_scale)
        self.optimizer.zero_grad(set_to_none=True)
        return loss / self.accumulation_steps

    def _count(self, bad: torch.Tensor) -> None:
        """Count steps in a row without a finite loss or, under a gradient scale, without finite gradients.

        Without a scale, non-finite gradients show as a non-finite loss one step later. Does not wait for the device.
        """
        self.bad_steps.copy_(torch.where(bad, self.bad_steps + 1, torch.zeros_like(self.bad_steps)))
        torch.maximum(self.longest_bad_run, self.bad_steps, out=self.longest_bad_run)

    def _accumulate(self, images: torch.Tensor, labels: torch.Tensor, key: int, sums: MetricSums) -> torch.Tensor:
        """Accumulate the gradients of all parts; returns the sum of their losses."""
        total = torch.zeros((), dtype=torch.float64, device=images.device)
        for part in range(self.accumulation_steps):
            # Every n-th image, as in the batch of one of n emulated processes.
            inputs, hard = images[part :: self.accumulation_steps], labels[part :: self.accumulation_steps]
            targets = hard
            # The key of the process that this part emulates.
            own_key = ((key * self.accumulation_steps + part) * self.ranks + self.rank) % (1 << 63)
            torch.manual_seed(own_key ^ 1 << 62)  # of dropout and stochastic depth; another stream than mixing's
            if self.mixing:
                inputs, targets = self.mixing(self.loss_module.predict.normalise(inputs), hard, own_key)
            last = part == self.accumulation_steps - 1
            with contextlib.nullcontext() if last else self._no_sync():
                loss, logits = self.forward(inputs, targets)
                self.scaler.scale(loss / self.accumulation_steps).backward()
            sums.add(logits, hard, loss)
            total += loss.detach()
        return total

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Skip the sum over processes, which only the last part needs."""
        if isinstance(self.parallel, DistributedDataParallel):
            return self.parallel.no_sync()
        return contextlib.nullcontext()


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter that has no momentum yet one of zeros; the first step is the same with them.

    Fused SGD makes the momentum with ``empty_like``, and its kernel writes nothing if a gradient overflowed. After such
    a first step, the second would add uninitialised memory to the weights.
    """
    for group in optimizer.param_groups:
        if group.get("momentum"):
            for parameter in group["params"]:
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def free_cached_memory(device: torch.device) -> None:
    """Give back the memory that torch keeps of the previous phase's sizes, on the GPU and pinned on the host.

    Torch does so itself before it runs out, but not for what NCCL, kernels and CUDA graphs allocate outside it. Hardly
    more than weights and momentum is in use between phases, so nearly all segments are free as a whole, and expandable
    segments, which help where they are not, would gain little.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()
