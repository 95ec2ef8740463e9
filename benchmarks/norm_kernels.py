"""Measure the bandwidth that the kernels of BatchNorm reach, on the shapes of ResNet-50.

    python benchmarks/norm_kernels.py [--px 224] [--batch 224] [--json FILE]

A row is an operator on a shape: statistics, activation or backward pass of a BatchNorm with ReLU, alone, with a
shortcut, or with the BatchNorm of a downsampled shortcut. A tensor counts once for each kernel that reads or writes it.
Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from training.model.batch_norm import activate, activate_backward, batch_moments

# Divisor of the image's side, and channels.
LAYERS = ((2, 64), (4, 64), (4, 256), (8, 128), (8, 512), (16, 256), (16, 1024), (32, 512), (32, 2048))
CALLS, ROUNDS = 20, 5


def milliseconds(call: Callable[[], object]) -> float:
    """Of one ``call``, the median over rounds."""
    found: list[float] = []
    for _ in range(ROUNDS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / CALLS)
    return float(statistics.median(found[1:]))  # the first compiles


def measure(side: int, channels: int, batch: int, device: torch.device) -> Iterator[tuple[str, int, float]]:
    """Operator, bytes that it moves, and milliseconds."""
    shape = (batch, side, side, channels)
    y, other, grad, grad2 = (torch.randn(shape, device=device).bfloat16().permute(0, 3, 1, 2) for _ in range(4))
    state = torch.ones(4, channels, device=device)
    weight, bias, mean, var = state
    size = 2 * y.numel()
    yield "statistics", size, milliseconds(lambda: batch_moments(y, mean, var, 0.1, 1e-5))
    moments = batch_moments(y, mean, var, 0.1, 1e-5)
    second = (weight, bias, moments)
    # Tensors of y's size in the forward pass and in both kernels of the backward pass; a mask has a 16th of one.
    cases: dict[str, tuple[tuple[Any, ...], float, float]] = {
        "alone": ((None, None, None, None), 2, 5),
        "shortcut": ((other, None, None, None), 3 + 1 / 16, 7 + 1 / 16),
        "two": ((other, *second), 3 + 1 / 16, 10 + 1 / 16),
    }
    for name, (added, forward, backward) in cases.items():
        inputs = (y, weight, bias, moments, *added)
        yield f"{name}, forward", int(forward * size), milliseconds(partial(activate, *inputs))
        _, bits = activate(*inputs)
        again = (grad, None if name == "alone" else grad2, y, weight, bias, moments, added[0], added[1], added[3], bits)
        yield f"{name}, backward", int(backward * size), milliseconds(partial(activate_backward, *again))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--batch", type=int, default=224)
    parser.add_argument("--json", type=Path, help="write the rows as JSON")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("no GPU here")
    device = torch.device("cuda", 0)
    print(f"{torch.cuda.get_device_name(device)}; torch {torch.__version__}; {options.px} px, batch {options.batch}")
    table = []
    for divisor, channels in LAYERS:
        side = -(-options.px // divisor)
        for name, size, ms in measure(side, channels, options.batch, device):
            row = {"name": name, "side": side, "channels": channels, "ms": round(ms, 4), "tb_per_s": size / ms / 1e9}
            table.append(row | {"tb_per_s": round(row["tb_per_s"], 3)})
            print(f"{side:>4} x {channels:<5} {name:<20} {ms:>9.4f} ms {row['tb_per_s']:>7.2f} TB/s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
