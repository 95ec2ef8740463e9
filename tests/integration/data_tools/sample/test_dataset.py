"""The sample dataset made by one process and by several."""

from pathlib import Path

from data_tools.sample import dataset


def test_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    specs = dataset.specs(classes=2, train=4, val=2)
    for workers in (1, 2):
        dataset.write(tmp_path / f"{workers}.tar", specs, workers=workers)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
