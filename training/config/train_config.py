"""The sections ``model`` and ``train`` of the configuration: what is trained, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_tools.common.options import OptionError, check, option

Arch = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """the network"""

    arch: Arch = option("resnet50", "a ResNet of torchvision")
    init_bn0: bool = option(True, "zero the last BatchNorm of each residual block; fc weights from N(0, 0.01)")
    blurpool: bool = option(False, "blur before every strided convolution but the first, against aliasing")
    stem_blocks: Literal["auto", "true", "false"] = option(
        "auto",
        "compute the first convolution as 4x4 on blocks of 2x2 pixels: equal up to rounding, with the same weights in "
        "checkpoints; `auto`: on a GPU in bf16, where it is faster",
    )
    prior_bias: bool = option(
        False, "begin with fc biases of -log(classes), so that with `train.loss=bce` each class begins as a rare one"
    )

    def __post_init__(self) -> None:
        check(self)


# Of nearly all pairs of images mixed with a smaller alpha, one has the whole share; of the smallest, torch draws none.
LEAST_ALPHA = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """optimizer, loss, precision"""

    loss: Literal["cross_entropy", "bce"] = option(
        "cross_entropy",
        "training loss: `cross_entropy`, or `bce`, composer's: binary cross-entropy of each class against the rest, "
        "summed over classes and averaged over images. The validation loss is cross-entropy",
    )
    momentum: float = option(0.9, "momentum of SGD, unless the schedule has momentum ramps", low=0, high=1)
    nesterov: bool = option(False, "Nesterov momentum")
    weight_decay: float = option(1e-4, "weight decay of convolution and linear weights", low=0)
    decay_decoupled: bool = option(
        False,
        "multiply weights by 1 - `weight_decay` · rate / highest rate of the schedule in each step, as in "
        "composer's DecoupledSGDW, instead of adding the decay to the gradient",
    )
    decay_norm: bool = option(False, "weight decay on BatchNorm parameters, too")
    decay_bias: bool = option(True, "weight decay on the fc layer's bias, too")
    label_smoothing: float = option(0.0, "label smoothing of the training loss", low=0, high=0.99)
    mixup: float = option(
        0.0, "alpha of MixUp; 0: off. With CutMix as well, one of the two is drawn for each batch", low=0
    )
    cutmix: float = option(0.0, "alpha of CutMix; 0: off", low=0)
    clip_norm: float = option(0.0, "scale gradients down to this total norm; 0: off", low=0)
    ema: float = option(
        0.0, "decay per update of averaged weights, which are validated alongside the plain ones; 0: off", low=0, high=1
    )
    ema_half_life: float = option(
        0.0, "in place of `ema`: steps after which a step's weights count for half in the average; 0: off", low=0
    )
    ema_every: int = option(1, "steps between updates of the averaged weights", low=1)
    amp: Literal["auto", "fp16", "bf16", "fp32"] = option(
        "auto", "precision: `fp16`, `bf16` or `fp32`; `auto`: bf16 from Ampere on, fp16 before, fp32 on a CPU"
    )
    max_bad_steps: int = option(10, "stop after this many steps in a row without a finite loss or gradient", low=1)
    loss_scale: float | Literal["dynamic"] = option(1024.0, "loss scale for fp16: a number, or `dynamic`", low=1)
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = option(
        "auto",
        "use torch.compile for the step: `off`, or its mode `default`, `reduce-overhead` or `max-autotune`; "
        "`auto`: `default` on a GPU, `off` on a CPU. The last two use CUDA graphs, but not where `dist.emulate_gpus` "
        "accumulates gradients. Validation is not compiled",
    )
    flip_tta: bool = option(False, "in validation, average the logits of each image and its mirror image")

    def __post_init__(self) -> None:
        check(self)
        for key in ("mixup", "cutmix"):
            if 0 < getattr(self, key) < LEAST_ALPHA:
                raise OptionError(f"{getattr(self, key)} mixes nothing", where=key, remedy="give 0, or 0.001 or more")
        if self.nesterov and not self.momentum:
            raise OptionError("needs momentum", where="nesterov", remedy="give --train.momentum=0.9, or leave it out")
        if self.ema and self.ema_half_life:
            raise OptionError("give either ema or ema_half_life", where="ema_half_life")
        if self.ema_half_life and not self.ema_decay:
            raise OptionError(f"{self.ema_half_life} steps are too few to average over", where="ema_half_life")
        if self.ema_every > 1 and not self.ema_decay:
            raise OptionError("nothing is averaged", where="ema_every", remedy="give --train.ema_half_life=STEPS, too")

    @property
    def ema_decay(self) -> float:
        """Decay per update of averaged weights; 0: none. Source of the half-life's: composer's EMA."""
        return 2 ** -(self.ema_every / self.ema_half_life) if self.ema_half_life else self.ema
