"""Worker processes whose results come back in order.

A result is returned only after everything before it, so the one writer appends samples as if there were a single
worker. A worker that dies is noticed at once: its end of the connection closes.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.common.errors import UserError
from data_tools.convert.transcode import RECORD, StorageOptions
from data_tools.convert.worker import SLOT_BYTES, SLOTS
from data_tools.sources.reader import File

Item = tuple[int, int, int, str]  # file, offset, length, class/name
_AHEAD = 2  # tasks given to a worker at once, so that it never waits for the next


class WorkerError(UserError, RuntimeError):
    """A worker died or could not read its source; the message is one line."""


@dataclass(frozen=True, slots=True)
class ResultChunk:
    """Results for `count` images from position `first` on.

    records: (count, outputs), all zero for an image that is bad. blobs: by output, the bytes of its samples one
    after another; valid until the next chunk is asked for. bad: (position, reason).
    """

    first: int
    records: NDArray[Any]
    blobs: list[memoryview]
    bad: list[tuple[int, str]]


@dataclass(slots=True, eq=False)
class _Member:
    process: subprocess.Popen[bytes]
    connection: Connection
    slots: list[int]
    maps: dict[int, mmap.mmap] = field(default_factory=dict)
    tasks: int = 0


class WorkerPool:
    """`workers` processes, which end with the `with` block."""

    def __init__(self, workers: int) -> None:
        self._outputs = 0
        self._members: list[_Member] = []
        try:
            for _ in range(workers):
                self._members.append(_start())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers; whatever they still hold is recomputed on resuming."""
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.process.wait()
            member.connection.close()
            for slot in member.slots:
                os.close(slot)
            for mapped in member.maps.values():
                with contextlib.suppress(BufferError):  # a chunk may still be in use when an error closes the pool
                    mapped.close()
        self._members = []

    def run(
        self, files: Sequence[File], storage: StorageOptions, chunks: Iterator[tuple[int, list[Item]]]
    ) -> Iterator[ResultChunk]:
        """Results in the order of the chunks, which are (first position, items). Iterate to the end."""
        self._outputs = len(storage.caps)
        for member in self._members:
            self._send(member, {"files": [asdict(file) for file in files], "storage": asdict(storage)})
        waiting: dict[int, deque[tuple[_Member, dict[str, Any], bytes]]] = {}
        firsts: dict[int, int] = {}
        assigned = turn = 0
        exhausted = False
        while True:
            while not exhausted and (member := min(self._members, key=lambda member: member.tasks)).tasks < _AHEAD:
                chunk = next(chunks, None)
                if chunk is None:
                    exhausted = True
                    break
                self._assign(member, assigned, chunk[1])
                firsts[assigned], waiting[assigned] = chunk[0], deque()
                assigned += 1
            if exhausted and turn == assigned:
                return
            while turn < assigned and waiting[turn]:
                member, head, records = waiting[turn].popleft()
                yield self._result(member, head, records, firsts[turn])
                firsts[turn] += head["count"]
                self._send(member, {"free": head["slot"]})
                if head["last"]:
                    del waiting[turn], firsts[turn]
                    turn += 1
                    member.tasks -= 1
                    break  # assign the next task first
            else:
                self._collect(waiting)

    def _assign(self, member: _Member, chunk: int, items: list[Item]) -> None:
        member.tasks += 1
        self._send(member, {"chunk": chunk, "items": items})

    def _send(self, member: _Member, message: dict[str, Any]) -> None:
        try:
            member.connection.send_bytes(json.dumps(message).encode())
        except OSError:
            raise _death(member) from None

    def _collect(self, waiting: dict[int, deque[tuple[_Member, dict[str, Any], bytes]]]) -> None:
        by_connection = {member.connection: member for member in self._members}
        for connection in wait(list(by_connection)):
            member = by_connection[connection]  # type: ignore[index]
            try:
                head, _, records = member.connection.recv_bytes().partition(b"\n")
            except (EOFError, OSError):
                raise _death(member) from None
            message = json.loads(head)
            if "error" in message:
                raise WorkerError(message["error"])
            waiting[message["chunk"]].append((member, message, records))

    def _result(self, member: _Member, head: dict[str, Any], raw: bytes, first: int) -> ResultChunk:
        records = np.frombuffer(raw, RECORD).reshape(head["count"], self._outputs)
        totals = records["size"].sum(axis=0, dtype=np.int64)
        view = memoryview(self._map(member, head["slot"], int(totals.sum())))
        ends = np.cumsum(totals)
        blobs = [view[end - total : end] for end, total in zip(ends, totals, strict=True)]
        return ResultChunk(first, records, blobs, [(first + at, reason) for at, reason in head["bad"]])

    def _map(self, member: _Member, slot: int, size: int) -> mmap.mmap:
        if slot not in member.maps or len(member.maps[slot]) < size:
            length = max(os.fstat(member.slots[slot]).st_size, SLOT_BYTES)
            os.ftruncate(member.slots[slot], length)
            member.maps[slot] = mmap.mmap(member.slots[slot], length, prot=mmap.PROT_READ)
        return member.maps[slot]


def _start() -> _Member:
    ours, theirs = socket.socketpair()
    slots = [os.memfd_create("results") for _ in range(SLOTS)]
    # -P: without it, -m looks for every module in the current folder first, be it a data set with a random.py.
    command = [sys.executable, "-P", "-m", "data_tools.convert.worker", str(theirs.fileno()), *map(str, slots)]
    environment = os.environ | {"PYTHONPATH": _module_path()}
    with theirs:
        process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(), *slots), stdin=subprocess.DEVNULL, env=environment
        )
    return _Member(process, Connection(ours.detach()), slots)


def _module_path() -> str:
    """This project and what PYTHONPATH names, without its empty entries, which stand for the current folder."""
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, own)])


def _death(member: _Member) -> WorkerError:
    code = member.process.wait(timeout=10)
    if code < 0:
        name = signal.Signals(-code).name
        cause = " (out of memory? then give fewer --write.workers)" if -code == signal.SIGKILL else ""
        return WorkerError(f"a worker was killed by {name}{cause}", remedy="run the same command again to continue")
    return WorkerError(f"a worker ended with exit code {code}", remedy="run the same command again to continue")
