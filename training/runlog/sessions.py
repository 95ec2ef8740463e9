"""Where a run was trained: ``environment.json`` has a session for every start whose epochs still count, and also
every launch."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_tools.common.files import write_atomically
from data_tools.common.gpus import driver_version
from data_tools.common.options import OptionError
from data_tools.common.resources import usable_cores
from data_tools.common.text import plural
from data_tools.native import codec
from training.runlog import invocation

if TYPE_CHECKING:
    import torch

ENVIRONMENT = "environment.json"
PACKAGES = ("imagenet18-ffcv", "torch", "torchvision", "ffcv", "numba", "numpy", "pillow")
NAME_BYTES = 96  # of a GPU's name, padded so that all processes exchange the same size


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """A start of a run at ``started`` (UTC) with ``from_epoch`` epochs complete; ``commit`` is that of the sources,
    None outside a checkout."""

    started: str
    from_epoch: int
    command: str
    commit: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A run from one start to the next: begun at ``started`` (UTC) with ``from_epoch`` epochs complete and
    ``from_hours`` on the clock; ``gpus`` names the card of every process (none on CPUs), ``images`` counts those of
    each set. Added later: ``launches``, all of the run up to this one, including those whose epochs were trained
    again; and ``decoder``."""

    started: str
    from_epoch: int
    from_hours: float
    processes: int
    gpus: tuple[str, ...]
    driver: str | None
    cpu: str
    cores: int
    memory_gib: float
    system: str
    precision: str
    versions: Mapping[str, str]
    classes: int
    images: Mapping[str, int]
    launches: tuple[Launch, ...] = ()
    decoder: str = ""


ADDED = {"launches", "decoder"}  # entries that files of earlier versions lack
REQUIRED = {each.name for each in fields(Session)} - ADDED
MAPPINGS = ("versions", "images")


def hardware(session: Session) -> str:
    """The hardware of ``session``, in a line."""
    host = f"{session.cpu}, {plural(session.cores, 'core')}, {session.memory_gib:.0f} GiB"
    if not session.gpus:
        return f"no GPU; {plural(session.processes, 'process')} on {host}"
    kinds = [f"{session.gpus.count(name)} × {name}" for name in dict.fromkeys(session.gpus)]
    driver = f", driver {session.driver}" if session.driver else ""
    return f"{' and '.join(kinds)}{driver}; {host}"


def read_sessions(run_dir: Path) -> list[Session]:
    """The sessions recorded in ``run_dir``, in order; none without the file. OptionError if it is damaged."""
    path = run_dir / ENVIRONMENT
    if not path.is_file():
        return []
    try:
        return [_session(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise OptionError(
            f"damaged, or of another version ({error})", where=path, remedy="restore it, or remove it"
        ) from None


def _session(entry: dict[str, Any]) -> Session:
    if not REQUIRED <= set(entry) <= REQUIRED | ADDED:
        raise ValueError("unexpected entries")
    numbers = [float(entry[key]) for key in ("from_epoch", "from_hours", "processes", "cores", "memory_gib", "classes")]
    if min(numbers) < 0 or not all(isinstance(entry.get(key, {}), dict) for key in MAPPINGS):
        raise ValueError("entries of the wrong kind")
    launches = tuple(Launch(**launch) for launch in entry.get("launches", ()))
    for each in (entry["started"], *(launch.started for launch in launches)):
        datetime.fromisoformat(each)
    return Session(**{**entry, "gpus": tuple(map(str, entry["gpus"])), "launches": launches})


def add_session(run_dir: Path, session: Session) -> None:
    """Add ``session`` to the run folder's, dropping sessions whose epochs are trained again."""
    before = [earlier for earlier in read_sessions(run_dir) if earlier.from_hours < session.from_hours]
    text = json.dumps([asdict(each) for each in (*before, session)], indent=2)
    write_atomically(run_dir / ENVIRONMENT, text.encode() + b"\n")


def launches_of(sessions: Sequence[Session]) -> tuple[Launch, ...]:
    """Every launch of a run; where an earlier version recorded none, the starts of its ``sessions``."""
    if sessions and sessions[-1].launches:
        return sessions[-1].launches
    return tuple(Launch(started=each.started, from_epoch=each.from_epoch, command="", commit=None) for each in sessions)


def current_session(
    *,
    run_dir: Path,
    gpus: tuple[str, ...],
    processes: int,
    precision: str,
    epoch: int,
    hours: float,
    classes: int,
    images: Mapping[str, int],
) -> Session:
    """A session of the run in ``run_dir`` that begins now, on this machine. OptionError if what is recorded there is
    damaged."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    earlier = launches_of(read_sessions(run_dir))
    launch = Launch(started=started, from_epoch=epoch, command=invocation.command(), commit=invocation.git_commit())
    return Session(
        launches=(*earlier, launch),
        decoder=codec.libjpeg_version(),
        started=started,
        from_epoch=epoch,
        from_hours=hours,
        processes=processes,
        gpus=gpus,
        driver=driver_version() if gpus else None,
        cpu=_cpu(),
        cores=usable_cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=platform.platform(),
        precision=precision,
        versions=_versions(),
        classes=classes,
        images=dict(images),
    )


def gpu_names(device: torch.device, every_rank: Callable[[torch.Tensor], torch.Tensor]) -> tuple[str, ...]:
    """The card of every process, by rank; none on CPUs. Every process calls it; ``every_rank`` stacks their tensors."""
    import torch

    name = torch.cuda.get_device_name(device).encode()[:NAME_BYTES] if device.type == "cuda" else b""
    padded = torch.tensor(list(name.ljust(NAME_BYTES, b"\0")), dtype=torch.uint8)
    names = [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in every_rank(padded)]
    return tuple(name for name in names if name)


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
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
