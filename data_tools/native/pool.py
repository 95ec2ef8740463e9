"""Native threads that do work item by item: they load the samples of batches, or convert images."""

import ctypes
import os
import weakref

from data_tools.native.library import library

WAIT_MILLISECONDS = 100  # after this long, Python looks whether it is to stop, even while a disk hangs


class NativePool:
    """`threads` native threads, which take works in the order of submission. Closing waits for the items at hand, a few
    milliseconds.

    A forked process has none of the threads, and their locks in whatever state they were: there the pool is not usable,
    and closing it leaves them alone.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"{threads} threads do nothing")
        self._handle = library().native_pool_new(threads)
        if not self._handle:
            raise RuntimeError(f"the system cannot start {threads} threads (see `ulimit -u`)")
        self.process = os.getpid()
        # Also at the interpreter's exit, while the memory that the threads write to is still there.
        self.close = weakref.finalize(self, _delete, self._handle, self.process)

    def submit(self, work: ctypes.Structure) -> None:
        """Begin a work, a struct that begins with `library.WORK`; what it points to must stay until it is finished."""
        self.check_open()
        library().native_pool_submit(self._handle, ctypes.byref(work))

    def finished(self, work: ctypes.Structure, milliseconds: int = 0) -> bool:
        """Whether a work is finished, after waiting for it up to this long; there is no other way to wait."""
        self.check_open()
        return bool(library().native_pool_wait(self._handle, ctypes.byref(work), milliseconds))

    def cancel(self, work: ctypes.Structure) -> None:
        """Forget a work; on return no thread touches it."""
        if self.close.alive and not self.is_forked:
            library().native_pool_cancel(self._handle, ctypes.byref(work))

    @property
    def is_forked(self) -> bool:
        """Whether this process is not the one that has the threads."""
        return os.getpid() != self.process

    def check_open(self) -> None:
        """RuntimeError once it is closed, and in a process that was forked."""
        if self.is_forked:
            raise RuntimeError(f"the threads are in process {self.process}, not in {os.getpid()}")
        if not self.close.alive:
            raise RuntimeError("the pool is closed")


def _delete(handle: int, process: int) -> None:
    if os.getpid() == process:
        library().native_pool_delete(handle)
