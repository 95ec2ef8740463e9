"""The processes of a job meet, or all of them end with a line; machines are network namespaces with their own names."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import weakref
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.processes import free_port
from helpers.training_runs import SERVER

from training.config.run_config import from_argv
from training.distributed import launcher, meeting
from training.distributed.world import World, gather

NAMESPACES = 0x00020000 | 0x04000000 | 0x40000000  # of mounts, host name and network
HOSTS = "127.0.0.1 localhost\n127.0.1.1 node{0}\n10.9.0.1 first\n10.9.0.{1} node{1}\n"  # Debian's second line


def separate() -> bool:
    return shutil.which("ip") is not None and ctypes.CDLL(None).unshare(NAMESPACES) == 0


def join(pipe: Connection, environment: dict[str, str], minutes: float, log: Path, machine: int = 0) -> None:
    """A process of a job, on a ``machine`` of its own if that is not 0; sends what all of them said, and ends with the
    job's status. The log has its standard error."""
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)
    if machine:
        pipe.send(separate())
        pipe.recv()  # the cable is there
        socket.sethostname(f"node{machine}")
        hosts = log.with_suffix(".hosts")
        hosts.write_text(HOSTS.format(machine, 3 - machine))
        for command in (
            "mount --make-rprivate /",
            f"mount --bind {hosts} /etc/hosts",
            f"ip address add 10.9.0.{machine}/24 dev cable",
            "ip link set cable up",
            "ip link set lo up",
        ):
            subprocess.run(command.split(), check=True)
    os.environ.update(environment)
    options = ["--dist.device=cpu", f"--dist.timeout_minutes={minutes}"]
    config = from_argv(["--config-file", str(ROOT / "rn50_configs/cpu_demo.yaml"), *options])

    def body(world: World, signals: object) -> None:
        pipe.send(gather((world.rank, os.environ[meeting.INTERFACE]), world))

    os._exit(launcher.run_in_job("job", config, body))


class Job:
    """Its processes, each with an environment of its own."""

    def __init__(self, folder: Path, environments: Sequence[dict[str, str]], machines: bool, minutes: float) -> None:
        self.logs = [folder / f"{number}.txt" for number in range(len(environments))]
        self.pipes, self.processes = [], []
        for number, (environment, log) in enumerate(zip(environments, self.logs, strict=True), start=1):
            ours, theirs = SERVER.Pipe()
            process = SERVER.Process(target=join, args=(theirs, environment, minutes, log, number if machines else 0))
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def lines(self) -> list[list[str]]:
        """What each has said to the user; torch's own warnings begin with a bracket."""
        return [[line for line in log.read_text().splitlines() if not line.startswith("[")] for log in self.logs]

    def statuses(self) -> list[int | None]:
        for process in self.processes:
            process.join(60)
        return [process.exitcode for process in self.processes]


def ranks(count: int, address: str, port: str, **more: str) -> list[dict[str, str]]:
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": address, "MASTER_PORT": port, **more}
    return [
        shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)} for rank in range(count)
    ]


def two_machines(folder: Path, address: str, minutes: float = 1, **more: str) -> Job:
    """A job of two processes, each on a machine of its own, with a cable between them."""
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    started = Job(folder, [each | alone | more for each in ranks(2, address, "29500")], True, minutes)
    separated = [pipe.recv() for pipe in started.pipes]
    if not all(separated):
        for process in started.processes:
            process.kill()
        pytest.skip("needs to make network namespaces, as root, and iproute2")
    one, other = (str(process.pid) for process in started.processes)
    # A machine that leaves takes its namespace along, and with that the cable and the other's address.
    namespaces = [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in (one, other)]
    weakref.finalize(started, lambda: [os.close(each) for each in namespaces])
    cable = ["ip", "link", "add", "cable", "netns", one, "type", "veth", "peer", "name", "cable", "netns", other]
    subprocess.run(cable, check=True)
    for pipe in started.pipes:
        pipe.send(True)
    return started


@pytest.mark.parametrize("address", ["node1", "first", "10.9.0.1"])
def test_machines_meet_although_each_finds_its_own_name_at_127_0_1_1(tmp_path: Path, address: str) -> None:
    job = two_machines(tmp_path, address)
    assert job.statuses() == [0, 0], job.lines()
    assert [pipe.recv() for pipe in job.pipes] == [[(0, "cable"), (1, "cable")]] * 2


def test_machine_that_cannot_be_reached_ends_all_with_a_line(tmp_path: Path) -> None:
    job = two_machines(tmp_path, "node1", GLOO_SOCKET_IFNAME="lo")
    assert job.statuses() == [2, 2]
    for line, *others in job.lines():
        assert "cannot reach node" in line
        assert " at 127.0.0.1: Connection refused; set GLOO_SOCKET_IFNAME on node" in line
        assert not others


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"WORLD_SIZE": "3"}, "1 of 3 processes did not reach first:29500 (MASTER_ADDR, MASTER_PORT): 2; "),
        ({"MASTER_ADDR": "10.9.0.77"}, " 10.9.0.77:29500 (MASTER_ADDR, MASTER_PORT): "),
        ({"GLOO_SOCKET_IFNAME": "eth7"}, " has no interface eth7 with an address; "),
    ],
)
def test_job_without_all_its_processes_ends_with_a_line(tmp_path: Path, change: dict[str, str], message: str) -> None:
    job = two_machines(tmp_path, "first", minutes=0.05, **change)
    assert job.statuses() == [2, 2]
    for line, *others in job.lines():
        assert message in line
        assert not others


def test_steps_that_share_a_port_by_mistake_end_with_a_line_while_the_first_trains(tmp_path: Path) -> None:
    port = free_port()
    steps = [ranks(2, "127.0.0.1", port, SLURM_JOB_ID="7", SLURM_STEP_ID=step) for step in ("0", "1")]
    (tmp_path / "a").mkdir()
    first = Job(tmp_path / "a", steps[0][:1], False, 1)
    meet_at = ("127.0.0.1", int(port))
    while True:
        try:
            socket.create_connection(meet_at).close()
            break
        except ConnectionRefusedError:
            assert first.processes[0].is_alive()
    (tmp_path / "b").mkdir()
    second = Job(tmp_path / "b", steps[1], False, 0.05)
    assert second.statuses() == [2, 2]
    said = second.lines()
    assert "cannot open" in said[0][0]
    assert "ddress already in use" in said[0][0]
    assert said[1] == []  # the first process of the machine has said it
    (tmp_path / "c").mkdir()
    last = Job(tmp_path / "c", steps[0][1:], False, 1)
    assert first.statuses() + last.statuses() == [0, 0], first.lines()


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (("GPU-a", "GPU-a"), "2 processes on {host}, but 1 GPU; start one process for each GPU"),
        (("GPU-a", "cpu"), "process 1 on {host} has no usable GPU, process 0 on {host} has one; "),
        (("cpu", "GPU-a"), "process 0 on {host} has no usable GPU, process 1 on {host} has one; "),
        (("GPU-a", "GPU-b"), ""),
        (("cpu", "cpu"), ""),
    ],
)
def test_each_process_needs_a_gpu_of_its_own(devices: tuple[str, str], message: str) -> None:
    pipes = []
    for rank, environment in enumerate(ranks(2, "127.0.0.1", free_port())):
        ours, theirs = SERVER.Pipe()
        SERVER.Process(target=bring, args=(theirs, environment, devices[rank])).start()
        pipes.append(ours)
    for pipe in pipes:
        assert pipe.poll(60)
        said = pipe.recv()
        assert message.format(host=socket.gethostname()) in said
        assert bool(message) == bool(said)


def bring(pipe: Connection, environment: dict[str, str], device: str) -> None:
    """Meet the others with a ``device``; sends the error, if any."""
    os.environ.update(environment)
    rank = int(environment["RANK"])
    try:
        store = meeting.meet(rank, 2, rank, device, timedelta(seconds=30))
    except meeting.MeetingError as error:
        pipe.send(str(error))
    else:
        pipe.send("")
        store.wait(["never"], timedelta(seconds=1)) if rank == 0 else None
