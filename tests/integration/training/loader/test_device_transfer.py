"""The order of copies and computation, on streams that run late and in the worst order; each mistake must be caught."""

from __future__ import annotations

import importlib.util
from collections import deque
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.fake_streams import FakeGpu

from training.loader import device_transfer
from training.loader.epoch_iterator import READY_AHEAD

BATCHES = 12
SOURCE = Path(device_transfer.__file__).read_text()
WAIT, RECORD = "current.wait_event(event)", "tensor.record_stream(current)"
EVENT = "            event.record(self.stream)\n"
CURRENT = "torch.cuda.current_stream(self._device)"
PINNED = "torch.empty(shape, dtype=torch.uint8, pin_memory=True)"
# A mistake, and the changes to the module's text that make it.
MISTAKES = {
    "no wait for the copy": {WAIT: "pass"},
    "the copying stream waits for itself": {WAIT: "self.stream.wait_event(event)"},
    "the host waits for the copy": {WAIT: "event.synchronize()"},
    "the event is not recorded": {EVENT: ""},
    "the event is recorded before the copies": {
        f"            event = torch.cuda.Event()\n{EVENT}": "",
        "            images = images.to(": "\n            ".join(
            ["            event = torch.cuda.Event()", "event.record(self.stream)", "images = images.to("]
        ),
    },
    "the event is recorded on the caller's stream": {EVENT: f"        event.record({CURRENT})\n"},
    "use by the caller's stream is not recorded": {RECORD: "pass"},
    "use by the wrong stream is recorded": {RECORD: "tensor.record_stream(self.stream)"},
    "use of the labels is not recorded": {"in (images, labels):": "in (images,):"},
    "the images' copy blocks": {"= images.to(self._device, non_blocking=True)": "= images.to(self._device)"},
    "the labels are not pinned": {"labels.pin_memory().to": "labels.to"},
    "the images are not pinned": {PINNED: PINNED.replace("True", "False")},
    "pinned memory is used again at once": {
        f"return {PINNED}": f"self._free = self._free or [{PINNED}]\n            return self._free[0]"
    },
    "the copies are on the caller's stream": {
        "with torch.cuda.stream(self.stream):": f"with torch.cuda.stream({CURRENT}):",
        EVENT: f"            event.record({CURRENT})\n",
    },
}


def changed(changes: dict[str, str], gpu: FakeGpu, folder: Path) -> ModuleType:
    """The module with these changes, which takes ``gpu`` for torch's."""
    text = SOURCE
    for old, new in changes.items():
        assert text.count(old) == 1, f"the code has changed; the test must, too: {old}"
        text = text.replace(old, new)
    path = folder / "changed.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("training.loader.changed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.torch = gpu.torch
    return module


def faults(changes: dict[str, str], folder: Path, computation_first: bool) -> list[str]:
    """What goes wrong when batches go the loader's way, and computations or copies run as late as they may."""
    gpu = FakeGpu()
    module = changed(changes, gpu, folder)
    buffers, copies, ready = module.HostBuffers(pinned=True), module.Copies(torch.device("cuda")), deque()
    for number in range(BATCHES + READY_AHEAD):
        if number < BATCHES:
            labels = gpu.torch.empty().fill(number)
            ready.append(copies.start(buffers.allocate(1, 1, 1).fill(number), labels))
        if not computation_first:
            copies.stream.run()
            if number < BATCHES and not ready[-1][2].done:
                gpu.faults.append("a copy waits for the computation")
        if number >= READY_AHEAD:
            gpu.compute(*copies.hand_over(ready.popleft()), expected=number - READY_AHEAD)
        if computation_first:
            gpu.default.run()
    while copies.stream.step():  # the copies one by one, the computations as soon as they can
        gpu.default.run()
    gpu.default.run()
    return gpu.faults + ["something is never done"] * bool(gpu.default.queue or copies.stream.queue)


@pytest.mark.parametrize("computation_first", [True, False])
def test_every_batch_is_whole_when_it_is_read(computation_first: bool, tmp_path: Path) -> None:
    assert faults({}, tmp_path, computation_first) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_the_order_is_caught(mistake: str, tmp_path: Path) -> None:
    assert any(faults(MISTAKES[mistake], tmp_path, computation_first) for computation_first in (True, False))


def test_pinned_memory_counts_as_torch_rounds_it() -> None:
    pixels = 224 * 224 * 224
    assert device_transfer.buffer_bytes(pixels, pinned=True) == 64 << 20
    assert device_transfer.buffer_bytes(pixels, pinned=False) == pixels * 3
    assert [device_transfer.buffer_bytes(n, pinned=True) for n in (0, 1, 43690)] == [0, 4, 1 << 17]
