"""Where the processes of a job meet: before they connect, each says in one store where it is and what it has."""

import contextlib
import ipaddress
import json
import os
import socket
import time
from collections import Counter
from datetime import timedelta
from typing import Any, NoReturn

import psutil
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from data_tools.common.console import plural
from data_tools.common.errors import UserError
from training.distributed.ranks import step_of

INTERFACE = "GLOO_SOCKET_IFNAME"
CONNECT_SECONDS = 10.0  # for a connection to a process that is known to listen
POLL_SECONDS = 0.1
LEAVE_SECONDS = 1.0  # in which the others read why the job ends; the main process has the store
MAIN_SECONDS = 20.0  # for the main process's first word in the store that it has opened


class MeetingError(UserError):
    """Why the processes of a job cannot work together; one process of each machine prints it."""


class Meeting:
    """The store of a job, and what its processes say in it. All of them call the same methods in the same order.

    Raises MeetingError, in every process that reaches the store, at the latest after ``timeout``.
    """

    def __init__(self, rank: int, ranks: int, timeout: timedelta) -> None:
        self.rank, self.ranks = rank, ranks
        self.host, self.main, port = socket.gethostname(), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.job = step_of(os.environ)
        self.failure, self.where = f"{self.job}/failure", f"{self.main}:{port} (MASTER_ADDR, MASTER_PORT)"
        self.deadline = time.monotonic() + timeout.total_seconds()
        by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # its agent keeps the store
        keeps = rank == 0 and not by_torchrun
        self.store: Store = HashStore()  # until there is a common one
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            listening = socket.create_server(("", port), family=family, dualstack_ipv6=both) if keeps else None
            # TCPStore would take twice the timeout and a hundred lines to say that nobody listens.
            seconds = timeout.total_seconds()
            self.address = _own_address_towards(self.main, port, min(CONNECT_SECONDS, seconds) if keeps else seconds)
            self.store = TCPStore(
                self.main,
                port,
                is_master=keeps,
                timeout=timeout,
                wait_for_workers=False,
                master_listen_fd=listening.detach() if listening else None,
            )
            own = by_torchrun or self._is_own(rank)
        except (OSError, dist.DistError) as error:
            what = f"process {rank} on {self.host} cannot {'open' if keeps else 'reach'} {self.where}: {_reason(error)}"
            self.fail(what, "give the name of the machine of process 0, and a port of this job alone")
        if not own:
            raise MeetingError(f"{self.where} belongs to another job", remedy="give each a port of its own")

    def _is_own(self, rank: int) -> bool:
        """Whether the store is this job's, whose main process writes into it first, and where this process is new."""
        mine = f"{self.job}/came/{rank}"
        if self.store.add(mine, 1) > 1:
            return False
        until = min(self.deadline, time.monotonic() + MAIN_SECONDS)
        while not self.store.check([f"{self.job}/came/0"]):
            if time.monotonic() > until:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def say(self, topic: str, value: Any) -> list[Any]:
        """``value`` of every process, in order of rank; MeetingError if one does not come, or has failed."""
        keys = [f"{self.job}/{topic}/{rank}" for rank in range(self.ranks)]
        try:
            self.store.set(keys[self.rank], json.dumps(value))
            while not self.store.check(keys):
                if self.store.check([self.failure]):
                    raise MeetingError(self.store.get(self.failure).decode())
                if time.monotonic() > self.deadline:
                    missing = [rank for rank, key in enumerate(keys) if not self.store.check([key])]
                    named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
                    what = f"{len(missing)} of {plural(self.ranks, 'process')} did not reach {self.where}: {named}"
                    self.fail(what, "start all of them, or see their output")
                time.sleep(POLL_SECONDS)
            return [json.loads(self.store.get(key)) for key in keys]
        except dist.DistError as error:
            raise MeetingError(f"process {self.rank} lost {self.where}: {_reason(error)}") from None

    def fail(self, what: str, remedy: str) -> NoReturn:
        """End the job with a reason that all of its processes get to know."""
        error = MeetingError(what, remedy=remedy)
        with contextlib.suppress(dist.DistError):
            self.store.set(self.failure, str(error))
        if self.rank == 0:
            time.sleep(LEAVE_SECONDS)
        raise error


def meet(rank: int, ranks: int, local_rank: int, device: str, timeout: timedelta) -> Store:
    """The store of the job, after all its processes have met there, each with a ``device`` of its own: ``cpu``, or what
    tells a GPU from all others. Chooses the network interface for gloo, which takes that of the host's name: often
    127.0.1.1."""
    meeting = Meeting(rank, ranks, timeout)
    places = meeting.say("place", [meeting.host, meeting.address, device])
    _check_devices(meeting, places)
    address = _gloo_address(meeting, [place[1] for place in places])
    # One process of each machine can be connected to by the others.
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) if local_rank == 0 else contextlib.nullcontext() as own:
        doors = meeting.say("door", own.getsockname()[:2] if own else None)
        for other, door in enumerate(doors if own else []):
            if door and other != rank:
                try:
                    socket.create_connection(tuple(door), CONNECT_SECONDS).close()
                except OSError as error:
                    host = places[other][0]
                    what = f"{meeting.host} cannot reach {host} at {door[0]}: {_reason(error)}"
                    meeting.fail(what, f"set {INTERFACE} on {host} to its interface that leads to the others")
        meeting.say("reached", True)
    return meeting.store


def _check_devices(meeting: Meeting, places: list[list[str]]) -> None:
    """Ends the job if some processes have no GPU, or share one, which NCCL cannot."""
    devices = [device for _, _, device in places]
    users = Counter(devices)
    for rank, (host, _, device) in enumerate(places):
        if (device == "cpu") != (devices[0] == "cpu"):
            has, lacks = ((0, places[0][0]), (rank, host))[:: 1 if device == "cpu" else -1]
            what = f"process {lacks[0]} on {lacks[1]} has no usable GPU, process {has[0]} on {has[1]} has one"
            meeting.fail(what, f"check the driver on {lacks[1]}, or give --dist.device=cpu")
        if device != "cpu" and users[device] > 1:
            here = [d for h, _, d in places if h == host]
            what = f"{plural(len(here), 'process')} on {host}, but {plural(len(set(here)), 'GPU')}"
            meeting.fail(what, "start one process for each GPU")


def _gloo_address(meeting: Meeting, addresses: list[str]) -> str:
    """The address that gloo will use here, after GLOO_SOCKET_IFNAME has been set to its interface."""
    if chosen := os.environ.get(INTERFACE, ""):
        for name, address in _interfaces():
            if name == chosen.split(",")[0]:
                return address
        meeting.fail(f"{meeting.host} has no interface {chosen} with an address", f"change or unset {INTERFACE}")
    address = meeting.address
    # Where MASTER_ADDR is this machine under its name in /etc/hosts, go by the machines that came from elsewhere.
    for other in addresses if _is_loopback(address) else []:
        if not _is_loopback(other):
            address = _own_address_towards(other, None)
            break
    for name, known in _interfaces():
        if known == address or (_is_loopback(known) and _is_loopback(address)):
            os.environ[INTERFACE] = name
            return known
    return address


def _own_address_towards(host: str, port: int | None, seconds: float = 0.0) -> str:
    """The address of this machine in a connection to ``port`` of ``host``, tried for ``seconds``; OSError if there is
    none. Without a port, nothing is sent, and the routes tell."""
    deadline = time.monotonic() + seconds
    if port is None:
        family, kind, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as unsent:
            unsent.connect(place)
            return str(unsent.getsockname()[0])
    while True:
        try:
            with socket.create_connection((host, port), min(CONNECT_SECONDS, seconds)) as connection:
                return str(connection.getsockname()[0])
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def _interfaces() -> list[tuple[str, str]]:
    """(name, address) of this machine's network interfaces, those of IPv4 first."""
    found = [(name, each) for name, addresses in psutil.net_if_addrs().items() for each in addresses]
    families = (socket.AF_INET, socket.AF_INET6)
    return [(name, each.address) for family in families for name, each in found if each.family == family]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
