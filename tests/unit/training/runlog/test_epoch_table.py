"""The table of epochs, epochs.csv."""

from pathlib import Path

import pytest
from helpers.run_folders import rows

from training.runlog.epoch_table import read_epochs, write_epochs


def test_epochs_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = rows([10.123456, 20])
    write_epochs(tmp_path, written)
    for ours, theirs in zip(read_epochs(tmp_path), written, strict=True):
        assert ours.flat() == pytest.approx(theirs.flat(), nan_ok=True)
