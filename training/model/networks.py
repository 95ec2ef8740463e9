"""The network of a run: a ResNet with this project's options, or another of torchvision or timm as published."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from data_tools.common.options import OptionError, nearest
from training.config.schedule import Phase
from training.config.train_config import RESNETS, TIMM, Model, Train
from training.model import resnet
from training.model.batch_norm import is_fused


def build(options: Model, classes: int, stem_blocks: bool = False) -> nn.Module:
    """The network that ``options`` describe, with random weights. OptionError if it is not to be had."""
    if options.arch.startswith(RESNETS):
        fused = is_fused(options.fused_batch_norm)
        network = resnet.build(options.arch, classes, options.init_bn0, options.blurpool, stem_blocks, fused)
    else:
        network = published(options.arch, classes)
    if options.prior_bias:
        set_prior_bias(network, classes)
    return network


def published(arch: str, classes: int) -> nn.Module:
    """torchvision's or timm's own network, with random weights. OptionError if timm is missing or does not have it."""
    if not arch.startswith(TIMM):
        network: nn.Module = getattr(torchvision.models, arch)(num_classes=classes)
        return network
    try:
        import timm
    except ImportError as error:
        what, remedy = f"the package {error.name} is missing", "pip install timm"
        raise OptionError(what, where="model.arch", remedy=remedy) from error
    name = arch.removeprefix(TIMM)
    if not timm.is_model(name):  # such as hf-hub:NAME, which would be downloaded
        what = f"{name!r} is not a network of timm {timm.__version__}{nearest(name, timm.list_models())}"
        raise OptionError(what, where="model.arch", remedy="see timm.list_models()")
    made: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    return made


def for_run(options: Model, train: Train, classes: int, device: torch.device) -> tuple[nn.Module, torch.dtype]:
    """The network of a run, channels-last on ``device``, and the type that it computes in."""
    dtype = resnet.amp_dtype(train.amp, device)
    network = build(options, classes, resnet.stem_on_blocks(options.stem_blocks, dtype, device))
    network.to(device)
    network.to(memory_format=torch.channels_last)
    return network, dtype


def without_weights(options: Model, classes: int) -> nn.Module:
    """What :func:`build` builds, on the meta device.

    Parameters move there as they are made. Under ``torch.device("meta")`` itself, RegNets could not compute their
    widths, for which they use tensors.
    """

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> Any:
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(on_meta)
    network = None
    try:
        network = build(options, classes)
    except RuntimeError:  # some networks of timm compute with their weights
        pass
    finally:
        hook.remove()
    return (build(options, classes) if network is None else network).to("meta")


def last_layer(network: nn.Module) -> list[str]:
    """The names of the parameters of the layer that makes the logits: in torchvision the last one, in timm the one that
    the network itself names, or several, as of a distilled DeiT, whose logits are the mean of two."""
    names = [name for name, _ in network.named_parameters()]
    named = getattr(network, "pretrained_cfg", {}).get("classifier") or names[-1].rpartition(".")[0]
    layers = (named,) if isinstance(named, str) else named
    return [name for name in names if name.rpartition(".")[0] in layers]


def set_prior_bias(network: nn.Module, classes: int) -> None:
    """Set the last biases to -log(classes). Source: composer's ``linear_log_constant_bias``."""
    biases = [name for name in last_layer(network) if name.endswith("bias")]
    if not biases or isinstance(network, torchvision.models.SqueezeNet):  # whose logits end in a ReLU
        what = "this network has no biases that are added to its logits"
        raise OptionError(what, where="model.prior_bias", remedy="give --model.prior_bias=false")
    for name in biases:
        nn.init.constant_(network.get_parameter(name), -math.log(classes))


def check_sizes(options: Model, classes: int, phases: Iterable[Phase], *, training: bool = True) -> None:
    """OptionError unless the network makes logits of the images of all phases, or with ``training=False`` of their
    validation images. ResNets do. Computes shapes only, on the meta device."""
    if options.arch.startswith(RESNETS):
        return
    network = without_weights(options, classes)
    for batch, height, width in dict.fromkeys(shape for phase in phases for shape in _shapes(phase, training)):
        try:
            with torch.no_grad():
                out = network.train(batch > 0)(torch.empty(batch or 1, 3, height, width, device="meta"))
        except Exception as error:  # each network has its own
            why = next(iter(str(error).splitlines()), type(error).__name__)
            what = f"{options.arch} does not take {height} x {width} px ({why})"
            raise OptionError(what, where="model.arch", remedy="give another size, or another network") from error
        if getattr(out, "shape", None) != (batch or 1, classes):
            what = f"{options.arch} has other outputs than one for each class"
            raise OptionError(what, where="model.arch", remedy="give another network")


def _shapes(phase: Phase, training: bool) -> Iterator[tuple[int, int, int]]:
    """Training images of a phase, height and width; validation images, with 0 in place of the images in a batch."""
    if training:
        yield phase.batch_per_gpu, phase.px, phase.px
    longer = phase.val_px + 8 * phase.rectangular_val  # a rectangle's longer side is any multiple of 8
    yield from ((0, phase.val_px, longer), (0, longer, phase.val_px))
