"""A worker process of the conversion: reads images, transcodes them and returns the results.

Started by `worker_pool` as `python -m data_tools.convert.worker CONNECTION_FD SLOT_FD...`. Tasks come over the
connection as JSON; results go back as JSON and records, their bytes through memory files ("slots") that both processes
hold and that vanish with them, however they end. A slot is refilled only after the pool has released it, which bounds a
worker's memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from data_tools.common.errors import UserError
from data_tools.convert import transcode
from data_tools.convert.transcode import RECORD
from data_tools.sources.reader import File, Reader

SLOTS = 3
SLOT_BYTES = 8 << 20  # results are sent when they are this large
_PR_SET_PDEATHSIG = 1


class Worker:
    """Processes tasks from the connection until it closes."""

    def __init__(self, connection: Connection, slots: Sequence[int]) -> None:
        self.connection = connection
        self.slots = slots
        self.free = deque(range(len(slots)))
        self.tasks: deque[dict[str, Any]] = deque()
        self.reader = Reader([])

    def run(self) -> None:
        while True:
            while not self.tasks:
                self._receive()
            self._work(self.tasks.popleft())

    def _receive(self) -> None:
        message = json.loads(self.connection.recv_bytes())
        if "free" in message:
            self.free.append(message["free"])
        elif "storage" in message:
            options = message["storage"]
            self.reader.close()
            self.reader = Reader([File(**file) for file in message["files"]])
            self.storage = transcode.StorageOptions(
                **options | {key: tuple(options[key]) for key in ("caps", "page_bytes")}
            )
        else:
            self.tasks.append(message)

    def _work(self, task: dict[str, Any]) -> None:
        done: list[list[transcode.Stored]] = []
        bad: list[tuple[int, str]] = []
        held = 0
        for at, (file, offset, length, key) in enumerate(task["items"]):
            data = self.reader.read(file, offset, length, key)
            try:
                stored = transcode.store(data, key, self.storage)
            except transcode.BadImageError as error:
                bad.append((at, str(error)))
                stored = []
            done.append(stored)
            held += sum(len(image.data) for image in stored)
            last = at + 1 == len(task["items"])
            if held >= SLOT_BYTES or last:
                self._send(task["chunk"], done, bad, last)
                done, bad, held = [], [], 0

    def _send(self, chunk: int, done: list[list[transcode.Stored]], bad: list[tuple[int, str]], last: bool) -> None:
        outputs = len(self.storage.caps)
        records = np.zeros((len(done), outputs), RECORD)
        for row, stored in zip(records, done, strict=True):
            for at, image in enumerate(stored):
                row[at] = (image.mode, image.kept, image.width, image.height, len(image.data), image.checksum)
        while not self.free:
            self._receive()
        slot = self.free.popleft()
        _fill(self.slots[slot], [stored[at].data for at in range(outputs) for stored in done if stored])
        head = {"chunk": chunk, "slot": slot, "count": len(done), "bad": bad, "last": last}
        self.connection.send_bytes(json.dumps(head).encode() + b"\n" + records.tobytes())


def _fill(slot: int, parts: Sequence[Any], step: int = 512) -> None:
    """Write the parts one after another from the start of a memory file."""
    at = 0
    for first in range(0, len(parts), step):  # the kernel takes 1024 at a time
        buffers = parts[first : first + step]
        size = sum(len(buffer) for buffer in buffers)
        if os.pwritev(slot, buffers, at) != size:
            raise MemoryError(f"no room for {size} bytes of results in memory")
        at += size


def main(arguments: Sequence[str]) -> None:
    # The pool ends its workers; if the pool itself is killed, the kernel does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    connection = Connection(int(arguments[0]))
    try:
        Worker(connection, [int(slot) for slot in arguments[1:]]).run()
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        name = "" if isinstance(error, (OSError, UserError)) else f"{type(error).__name__}: "
        connection.send_bytes(json.dumps({"error": f"{name}{error}"}).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
