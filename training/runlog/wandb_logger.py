"""Logs a run to Weights & Biases if ``log.wandb`` is given."""

import importlib.util
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.common.files import write_atomically
from data_tools.common.options import OptionError

ID = "wandb.id"


def check(project: str | None) -> None:
    """OptionError if ``project`` is given and wandb is not installed. Imports nothing."""
    if project is not None and importlib.util.find_spec("wandb") is None:
        raise OptionError(
            "wandb is not installed here",
            where="log.wandb",
            remedy="make env EXTRAS=wandb, or pip install 'wandb>=0.19', or leave log.wandb out",
        )


class Tracker:
    """Logs scalars to ``project``, over images seen; a continued run keeps its id.

    OptionError if wandb refuses, as it does without a login.
    """

    def __init__(self, project: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        import wandb

        id_file = run_dir / ID
        if not id_file.is_file():
            write_atomically(id_file, uuid.uuid4().hex[:8].encode() + b"\n")
        try:
            self._run = wandb.init(
                project=project,
                dir=str(run_dir),
                name=run_dir.name,
                id=id_file.read_text().strip(),
                resume="allow",
                config=dict(config),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise OptionError(reason, where="log.wandb", remedy=f"WANDB_MODE=offline keeps it in {run_dir}") from None
        self._run.define_metric("*", step_metric="images_seen")

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        self._run.log({**values, "images_seen": images_seen})

    def close(self) -> None:
        self._run.finish()
