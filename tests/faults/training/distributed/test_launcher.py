"""A process that raises, hangs or is lost ends the whole job with its error, and no process is left over."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.betons import overwrite, sample_place
from helpers.processes import free_port, processes_of_session, wait_for_end_of_session, wait_until
from helpers.training_runs import (
    SERVER,
    TrainingProcess,
    batches_done,
    ranks_of,
    training_script,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_tools.common.options import OptionError
from training.config.run_config import Dist
from training.distributed.launcher import forwarded_signals
from training.distributed.world import world
from training.runlog.epoch_table import read_epochs

DIST = Dist(device="cpu")


def test_error_of_a_process_is_shown_and_ends_the_job(recipe: Path, betons: Path, tmp_path: Path) -> None:
    shutil.copytree(betons, tmp_path / "betons")
    beton = tmp_path / "betons/train_160.beton"
    overwrite(beton, sample_place(beton, 5)[0], bytes(200))
    process = TrainingProcess(recipe, tmp_path / "run", "--dist.processes=2", f"--data.dir={tmp_path / 'betons'}")
    _, err = process.finish(2)
    said = [line for line in err.splitlines() if line.startswith("train_imagenet.py: error: ")]
    assert len(said) == 1
    assert "train_160.beton: sample 5 (label 0) cannot be loaded" in said[0]
    wait_for_end_of_session(process.pid)


def test_signal_to_a_launcher_that_is_still_starting_reaches_its_processes() -> None:
    with forwarded_signals() as received:
        signal.raise_signal(signal.SIGTERM)
        process = SERVER.Process(target=time.sleep, args=(60,))
        process.start()
        process.join(30)
    assert received == [signal.SIGTERM]
    assert process.exitcode == -signal.SIGTERM


SCRIPT = """
import os, sys, time
from training.config.run_config import Dist
from training.distributed.launcher import launch

def main(seconds):
    os.write(1, b"started\\n")  # at once: what `print` writes in two parts can run together with another process's
    time.sleep(seconds)
    os.write(1, b"ended\\n")
    return 0

if __name__ == "__main__":
    sys.exit(launch(main, Dist(device="cpu", processes=2), int(sys.argv[1])))
"""


def start_script(folder: Path, seconds: int) -> subprocess.Popen[str]:
    """A launcher in ``folder`` of two processes that only wait."""
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(seconds)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )


@pytest.mark.parametrize(("send", "number"), [(os.kill, signal.SIGINT), (os.killpg, signal.SIGQUIT)])
def test_ctrl_c_before_the_first_step_is_one_line(
    send: Callable[[int, int], None], number: signal.Signals, tmp_path: Path
) -> None:
    with start_script(tmp_path, 60) as process:
        assert process.stdout is not None and process.stderr is not None
        assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
        send(process.pid, number)
        assert process.wait(60) == 128 + number
        assert process.stderr.read() == f"stopped by {number.name}; nothing was saved\n"


def test_killed_launcher_takes_its_processes_along(tmp_path: Path) -> None:
    with start_script(tmp_path, 600) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
        process.kill()
        process.communicate(timeout=60)  # ends when the last process has


def test_process_of_a_job_started_by_hand_outlives_its_shell(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    shell = subprocess.Popen(
        ["sh", "-c", f"{sys.executable} job.py 1 & read line"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RANK": "0", "WORLD_SIZE": "1"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with shell:
        assert shell.stdout is not None and shell.stdin is not None
        assert shell.stdout.readline() == "started\n"
        shell.stdin.close()
        shell.wait(60)
        assert shell.stdout.read() == "ended\n"


MEETING = """
from pathlib import Path
from training.config.run_config import Dist
from training.distributed.launcher import launch
from training.distributed.world import gather, world

def main(options):
    with world(options) as place:
        Path(f"met_by_{place.rank}").write_text(str(gather(place.rank, place)))
    return 0

if __name__ == "__main__":
    options = Dist(device="cpu", processes=2, timeout_minutes=0.5)
    raise SystemExit(launch(main, options, options))
"""


def test_processes_meet_on_a_host_without_localhost(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(MEETING)
    (tmp_path / "hosts").write_text(f"127.0.1.1 {socket.gethostname()}\n")
    own_hosts = ["unshare", "--mount", "sh", "-c", 'mount --bind hosts /etc/hosts && exec "$@"', "sh"]
    if subprocess.run([*own_hosts, "true"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("needs to replace /etc/hosts, as root")
    command = [*own_hosts, sys.executable, "job.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.glob("met_by_*")} == {
        "met_by_0": "[0, 1]",
        "met_by_1": "[0, 1]",
    }


def test_modules_in_the_current_folder_are_not_imported_by_the_processes(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "pickle.py").write_text("raise SystemExit('pickle.py was imported')")
    with start_script(here, 0) as process:
        _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err


@pytest.mark.slow
def test_hanging_process_ends_the_job(recipe: Path, tmp_path: Path) -> None:
    options = "--run.checkpoint_minutes=0", "--dist.processes=2", "--dist.timeout_minutes=0.1"
    process = TrainingProcess(recipe, tmp_path, *options)
    process.wait_for_batches(1)
    os.kill(ranks_of(process)[1], signal.SIGSTOP)
    # The timeout is 6 s, and the launcher gives the stopped process 30 s to leave.
    _, err = process.finish(1)
    assert "failed first" in err
    assert "imed out" in err
    wait_for_end_of_session(process.pid)


class Torchrun:
    """`torchrun ... train_imagenet.py` as one machine of a job, in a session of its own."""

    def __init__(self, recipe: Path, run_dir: Path, *options: str) -> None:
        run_dir.mkdir(exist_ok=True)
        self.log = run_dir / f"{'_'.join(o.strip('-') for o in options if 'rank' in o) or 'node'}.txt"
        script = training_script(recipe, run_dir, "--run.checkpoint_minutes=0")
        command = [sys.executable, "-m", "torch.distributed.run", *options, *script]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            )

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sorted(map(int, children))

    def kill(self) -> None:
        """Every process at once, as if the machine had lost its power."""
        workers = self.workers()  # each in a session of its own
        os.killpg(self.process.pid, signal.SIGKILL)
        for pid in {*workers, *processes_of_session(self.process.pid)}:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def finish(self, seconds: float) -> tuple[int, str]:
        status = self.process.wait(seconds)
        wait_for_end_of_session(self.process.pid)
        return status, self.log.read_text()


@pytest.mark.slow
def test_lost_machine_ends_the_job_on_the_others(recipe: Path, tmp_path: Path) -> None:
    port = free_port()
    shared = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    here, other = (Torchrun(recipe, tmp_path, *shared, f"--node-rank={rank}") for rank in (0, 1))
    wait_until(lambda: batches_done(tmp_path) > 0, 240)
    other.kill()
    status, said = here.finish(60)
    assert status != 0
    assert "Traceback" in said
    assert "onnection closed by peer" in said or "onnection reset by peer" in said
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(port)))


@pytest.mark.slow
def test_max_restarts_continues_from_the_last_checkpoint(recipe: Path, tmp_path: Path) -> None:
    job = Torchrun(recipe, tmp_path, "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    wait_until(lambda: batches_done(tmp_path) >= 6, 240)
    os.kill(job.workers()[1], signal.SIGKILL)
    status, said = job.finish(240)
    assert status == 0, said
    assert [row.epoch for row in read_epochs(tmp_path)] == [1, 2, 3]
    assert starts_from_scratch(tmp_path) == 1


def test_restarts_with_a_shared_torchrun_store_are_refused(recipe: Path, tmp_path: Path) -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (environment | {"TORCHELASTIC_MAX_RESTARTS": "3"}).items():
            patch.setenv(key, value)
        with pytest.raises(OptionError, match="start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), world(DIST):
            pass
        patch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
        with world(DIST) as place:
            assert place.ranks == 1


def starts_from_scratch(run_dir: Path) -> int:
    """How often a run began at its first batch: each time it writes the event `first`."""
    count = 0
    for path in run_dir.glob("events*"):
        events = EventAccumulator(str(path))
        events.Reload()
        count += len(events.Scalars("times/first")) if "times/first" in events.Tags()["scalars"] else 0
    return count
