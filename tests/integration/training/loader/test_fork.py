"""A loader in a process that was forked: an error there, and never a process that does not end."""

import subprocess
import sys
from pathlib import Path

# Forks a child for each action while a batch of the loader is in use, and prints how it ended; then goes on itself.
FORKS = """
import gc, os, sys
from pathlib import Path
from training.loader import TrainLoader
loader = TrainLoader(Path(sys.argv[1]), px=64, batch=8, workers=2)
batches = loader.epoch(0)
next(batches)
for action in sys.argv[2:]:
    if os.fork() == 0:
        exec(action)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.wait()[1]))
print("left", sum(1 for _ in batches))
"""

DATALOADER = """
import sys
from pathlib import Path
from torch.utils.data import DataLoader, IterableDataset
from training.loader import TrainLoader

class Batches(IterableDataset):
    def __init__(self, path):
        self.loader = TrainLoader(path, px=64, batch=8, workers=2)
    def __iter__(self):
        return iter(self.loader)

list(DataLoader(Batches(Path(sys.argv[1])), batch_size=None, num_workers=1, multiprocessing_context="fork"))
"""


def run(script: str, betons: Path, *actions: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, str(betons / "train_160.beton"), *actions]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_forked_process_leaves_the_loader_to_its_parent_and_may_not_use_it(betons: Path) -> None:
    ends = ("pass", "del batches, loader; gc.collect()", "batches.close(); loader.close()", "loader.close()")
    uses = ("next(batches)", "next(iter(loader))", "loader.decode.submit(loader.samples(0)[0])")
    done = run(FORKS, betons, *ends, *uses)
    assert done.stdout.split() == ["0"] * len(ends) + ["1"] * len(uses) + ["left", "4"]
    assert done.stderr.count("LoadError: the loader was made in process") == len(uses)


def test_loader_in_a_worker_of_torchs_dataloader_is_an_error(betons: Path) -> None:
    done = run(DATALOADER, betons)
    assert done.returncode == 1
    assert "LoadError: Caught LoadError in DataLoader worker process 0" in done.stderr
    assert "make the loader after the fork" in done.stderr
