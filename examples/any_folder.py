"""Convert a folder of pictures, {train,val}/<class>/<picture>, train a ResNet-18 on it and print its top-1.

    python examples/any_folder.py PICTURES OUT

The same steps as write_datasets.py and train_imagenet.py, with a schedule made in Python, for any data set.
"""

import sys
from pathlib import Path

from data_tools.convert import config
from data_tools.convert.converter import convert
from training import trainer
from training.config.datasets import read_datasets
from training.config.run_config import Data, Run, RunConfig
from training.config.schedule import Phase, Ramp, Schedule
from training.config.train_config import Model
from training.distributed.launcher import launch
from training.runlog.epoch_table import read_epochs

RATES = (Ramp(epochs=(0, 1), first=0.005, last=0.05), Ramp(epochs=(1, 4), first=0.05, last=0.0))
SCHEDULE = Schedule(
    phases=(
        Phase(epochs=(0, 2), px=48, batch_per_gpu=16, data="96", min_scale=0.35, val_batch=64, lr=RATES),
        Phase(epochs=(2, 4), px=80, batch_per_gpu=16, data="96", min_scale=0.35, val_batch=64, rectangular_val=True),
    )
)


def main(pictures: Path, out: Path) -> int:
    convert(config.WriteSpec(data=config.Data(source=(pictures,), out=out / "betons", caps=("96",))))
    run = RunConfig(
        data=Data(dir=out / "betons"),
        schedule=SCHEDULE,
        model=Model(arch="resnet18"),
        run=Run(dir=out / "run"),
    )
    status = launch(trainer.run, run.dist, run, read_datasets(run.data.dir, SCHEDULE.betons()))
    if not status:
        print(f"top-1 {read_epochs(out / 'run')[-1].top1:.2f} %")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
