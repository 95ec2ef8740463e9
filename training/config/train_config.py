"""The sections ``model`` and ``train`` of the configuration: what is trained, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from data_tools.common.options import OptionError, Section, nearest

# torchvision's classification networks by family, but for googlenet and inception_v3, which have auxiliary outputs.
FAMILIES = {
    "resnet": "18 34 50 101 152",
    "resnext": "50_32x4d 101_32x8d 101_64x4d",
    "wide_resnet": "50_2 101_2",
    "alexnet": "",
    "convnext_": "tiny small base large",
    "densenet": "121 161 169 201",
    "efficientnet_": "b0 b1 b2 b3 b4 b5 b6 b7 v2_s v2_m v2_l",
    "maxvit_": "t",
    "mnasnet": "0_5 0_75 1_0 1_3",
    "mobilenet_": "v2 v3_small v3_large",
    "regnet_x_": "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf",
    "regnet_y_": "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf 128gf",
    "shufflenet_v2_": "x0_5 x1_0 x1_5 x2_0",
    "squeezenet": "1_0 1_1",
    "swin_": "t s b v2_t v2_s v2_b",
    "vgg": "11 11_bn 13 13_bn 16 16_bn 19 19_bn",
    "vit_": "b_16 b_32 l_16 l_32 h_14",
}
NETWORKS = tuple(family + each for family, variants in FAMILIES.items() for each in variants.split() or [""])
# The families of torchvision's ResNet class, and the options for them alone; they also have own pooling and BatchNorms.
RESNETS = ("resnet", "resnext", "wide_resnet")
OF_RESNETS = ("init_bn0", "blurpool", "stem_blocks", "fused_batch_norm")
TIMM = "timm/"


def check_arch(arch: str) -> str:
    """``arch`` if it is a network of torchvision that can be trained here, or may be one of timm; else OptionError."""
    if arch in NETWORKS or (arch.startswith(TIMM) and arch != TIMM):
        return arch
    if arch in ("googlenet", "inception_v3"):
        raise OptionError(f"{arch} has auxiliary outputs, which are not trained here", remedy="give another network")
    what = f"{arch!r} is not a classification network of torchvision{nearest(arch, NETWORKS)}"
    raise OptionError(what, remedy="give its name there, or timm/NAME")


Arch = Annotated[str, AfterValidator(check_arch)]


class Model(Section):
    """the network"""

    arch: Arch = Field(
        "resnet50",
        description="a classification network of torchvision, such as `resnet18` or `convnext_tiny`, or with timm "
        "installed `timm/NAME`",
    )
    init_bn0: bool = Field(
        default_factory=lambda model: model["arch"].startswith(RESNETS),
        description="of ResNets only: zero the last BatchNorm of each residual block; fc weights from N(0, 0.01); by "
        "default `true`",
    )
    blurpool: bool = Field(
        False,
        description="of ResNets only: blur before every strided convolution but the first, against aliasing",
    )
    stem_blocks: bool | Literal["auto"] = Field(
        "auto",
        description="of ResNets only: compute the first convolution as 4x4 on blocks of 2x2 pixels, which is equal up "
        "to rounding; `true`, `false`, or `auto`: on a GPU in bf16, where it is faster",
    )
    fused_batch_norm: bool | Literal["auto"] = Field(
        "auto",
        description="of ResNets only: in a step compiled for a GPU, compute BatchNorm, ReLU and shortcuts with own "
        "kernels, which is equal up to rounding; `true`, `false`, or `auto`: `false`, until they have been measured",
    )
    prior_bias: bool = Field(
        False,
        description="begin with biases of -log(classes) in the last layer, for `train.loss=bce`",
    )

    @model_validator(mode="after")
    def _have_what_is_asked(self) -> Model:
        for option in OF_RESNETS:
            if getattr(self, option) is True and not self.arch.startswith(RESNETS):
                what, remedy = f"only ResNets have it, not {self.arch}", f"give --model.{option}=false"
                raise OptionError(what, where=option, remedy=remedy)
        return self


# Of nearly all pairs of images mixed with a smaller alpha, one has the whole share; of the smallest, torch draws none.
LEAST_ALPHA = 0.001


class Train(Section):
    """optimizer, loss, precision"""

    loss: Literal["cross_entropy", "bce"] = Field(
        "cross_entropy",
        description="training loss: `cross_entropy`, or `bce` as in composer: binary cross-entropy of each class "
        "against the rest, summed over classes and averaged over images. The validation loss is cross-entropy",
    )
    momentum: float = Field(0.9, ge=0, le=1, description="momentum of SGD, unless the schedule has momentum ramps")
    nesterov: bool = Field(False, description="Nesterov momentum")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of convolution and linear weights")
    decay_decoupled: bool = Field(
        False,
        description="in each step, multiply weights by 1 - `weight_decay` · rate / the schedule's highest rate, as "
        "composer's DecoupledSGDW does, instead of adding the decay to the gradient",
    )
    decay_norm: bool = Field(False, description="weight decay on normalisation layers, too")
    decay_bias: bool = Field(True, description="weight decay on biases, too")
    label_smoothing: float = Field(0.0, ge=0, le=0.99, description="label smoothing of the training loss")
    mixup: float | None = Field(
        None,
        ge=LEAST_ALPHA,
        description="alpha of MixUp; by default off. With CutMix as well, one of the two is drawn for each batch",
    )
    cutmix: float | None = Field(None, ge=LEAST_ALPHA, description="alpha of CutMix; by default off")
    clip_norm: float | None = Field(None, gt=0, description="scale gradients down to this total norm; by default off")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay per update of averaged weights, which are validated beside the plain ones; by default off",
    )
    ema_every: int = Field(1, ge=1, description="steps between updates of the averaged weights")
    amp: Literal["auto", "fp16", "bf16", "fp32"] = Field(
        "auto",
        description="precision: `fp16`, `bf16` or `fp32`; `auto`: bf16 from Ampere on, fp16 before, fp32 on a CPU",
    )
    loss_scale: Annotated[float, Field(ge=1)] | Literal["dynamic"] = Field(
        1024.0, description="loss scale for fp16: a number of 1 or more, or `dynamic`"
    )
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = Field(
        "auto",
        description="compile the step: `off`, or torch.compile's mode `default`, `reduce-overhead` or `max-autotune` "
        "(the last two with CUDA graphs, unless `dist.emulate_gpus` accumulates gradients); `auto`: `default` on a "
        "GPU, `off` on a CPU",
    )
    flip_tta: bool = Field(False, description="in validation, average the logits of an image and its mirror image")

    @model_validator(mode="after")
    def _go_together(self) -> Train:
        if self.nesterov and not self.momentum:
            raise OptionError("needs momentum", where="nesterov", remedy="give --train.momentum=0.9, or leave it out")
        if self.ema_every > 1 and not self.ema:
            raise OptionError("nothing is averaged", where="ema_every", remedy="give --train.ema=DECAY, too")
        return self
