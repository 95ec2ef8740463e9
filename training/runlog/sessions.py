"""Where a run was trained: a session for each of its starts. The checkpoint holds them, and ``environment.json`` shows
them."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data_tools.common.console import plural
from data_tools.common.files import write_atomically
from data_tools.common.gpus import driver_version
from data_tools.common.options import OptionError
from data_tools.common.resources import usable_cores
from data_tools.native import codec
from training.runlog import invocation

ENVIRONMENT = "environment.json"
PACKAGES = ("imagenet18-ffcv", "torch", "torchvision", "ffcv", "numba", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class Session:
    """A run from one start to the next: begun at ``started`` with ``from_epoch`` epochs complete and ``from_hours`` on
    the clock; ``commit`` is that of the sources, None outside a checkout; ``gpus`` names the card of every process,
    none on CPUs; ``images`` counts those of each set."""

    started: datetime
    from_epoch: NonNegativeInt
    from_hours: NonNegativeFloat
    command: str
    commit: str | None
    processes: int
    gpus: tuple[str, ...]
    driver: str | None
    cpu: str
    cores: int
    memory_gib: float
    system: str
    precision: str
    versions: Mapping[str, str]
    decoder: str
    classes: int
    images: Mapping[str, int]


_SESSIONS = TypeAdapter(tuple[Session, ...])
_RECORDED = TypeAdapter(Annotated[tuple[Session, ...], Field(min_length=1)])


def as_plain(sessions: Sequence[Session]) -> list[dict[str, Any]]:
    """Sessions as plain values, for a checkpoint."""
    plain: list[dict[str, Any]] = _SESSIONS.dump_python(tuple(sessions), mode="json")
    return plain


def from_plain(values: Sequence[Mapping[str, Any]]) -> tuple[Session, ...]:
    return _SESSIONS.validate_python(values)


def write_sessions(run_dir: Path, sessions: Sequence[Session]) -> None:
    write_atomically(run_dir / ENVIRONMENT, _SESSIONS.dump_json(tuple(sessions), indent=2) + b"\n")


def read_sessions(run_dir: Path) -> tuple[Session, ...]:
    """The sessions recorded in ``run_dir``, in order, one at least. OptionError if the file is missing or damaged."""
    path = run_dir / ENVIRONMENT
    try:
        return _RECORDED.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise OptionError("missing", where=path, remedy="give a run folder") from None
    except ValidationError as error:
        first = error.errors()[0]
        what = f"damaged, or of another version ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        raise OptionError(what, where=path, remedy="restore it, or remove it") from None


def hardware(session: Session) -> str:
    host = f"{session.cpu}, {plural(session.cores, 'core')}, {session.memory_gib:.0f} GiB"
    if not session.gpus:
        return f"no GPU; {plural(session.processes, 'process')} on {host}"
    kinds = [f"{session.gpus.count(name)} × {name}" for name in dict.fromkeys(session.gpus)]
    driver = f", driver {session.driver}" if session.driver else ""
    return f"{' and '.join(kinds)}{driver}; {host}"


def session_here(*, gpus: Sequence[str], **of_run: Any) -> Session:
    """A session that begins now on this machine; ``of_run``: what the run alone knows of it."""
    return Session(
        **of_run,
        started=datetime.now(UTC).replace(microsecond=0),
        command=invocation.command(),
        commit=invocation.git_commit(),
        gpus=tuple(gpus),
        driver=driver_version() if gpus else None,
        cpu=_cpu(),
        cores=usable_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=platform.platform(),
        versions=_versions(),
        decoder=codec.libjpeg_version(),
    )


def _versions() -> dict[str, str]:
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a source tree that is not installed
            continue
    if torch.version.cuda and torch.cuda.is_available():
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return versions


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
