"""Whether a run may continue with these options: compares what its result depends on with that of the checkpoint.

The rule: a run that was stopped and continued must give the same result as one that was not.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.common.options import OptionError
from training.config.run_config import RunConfig, as_mapping
from training.config.schedule import Phase, Schedule

SCHEDULE, VALIDATION = "schedule", "validation"
# They change what is shown, or how fast it goes, but not what is learned.
HARMLESS = {"model.stem_blocks", "model.fused_batch_norm", "train.compile", "train.flip_tta", VALIDATION}
# Weights of one network do not fit another.
FIXED = {"model.arch", "model.blurpool", "classes"}
_BETON = re.compile(r"(train|val)_(full|\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionChange:
    """An option whose value is not that of the checkpoint."""

    key: str
    before: str
    now: str
    harmless: bool

    def __str__(self) -> str:
        return f"{self.key} is {self.now}, was {self.before}"


def options_of_result(
    config: RunConfig, *, amp: str, gpus: int, digests: Mapping[str, str], classes: int
) -> dict[str, Any]:
    """What the result of a run depends on, in plain values: options, ``train.amp`` as what it means here (fp16),
    the ``gpus`` that share the global batch, and the ``digests`` of the betons.

    The number of processes is not among them: it only affects rounding.
    """
    sections = as_mapping(config)
    options = {f"{name}.{key}": value for name in ("model", "train") for key, value in sections[name].items()}
    options |= {"train.amp": amp, "gpus": gpus, "classes": classes, "run.seed": config.run.seed}
    options |= {f"data.{key}": sections["data"][key] for key in ("page_window", "augment")}
    options["run.init_from"] = sections["run"]["init_from"]
    schedule = config.schedule
    options[SCHEDULE] = [_epoch(schedule, epoch) for epoch in range(schedule.epochs)]
    options[VALIDATION] = [_validation(schedule.phase(epoch)) for epoch in range(schedule.epochs)]
    return options | dict(digests)


def _epoch(schedule: Schedule, epoch: int) -> str:
    phase = schedule.phase(epoch)
    shown = f"{phase.px} px of {phase.data}, batch {phase.batch_per_gpu}, min_scale {phase.min_scale:g}"
    for name, ramps in (("lr", schedule.lr_ramps), ("momentum", schedule.momentum_ramps)):
        for ramp in ramps:
            if ramp.start <= epoch < ramp.end:
                power = "" if ramp.power is None else f" {ramp.power:.9g}"
                shape = "" if ramp.shape == "linear" else f", {ramp.shape}{power}"
                shown += f", {name} {ramp.at(epoch, 0, 1):.9g} to {ramp.at(epoch, 1, 1):.9g}{shape}"
    return shown


def _validation(phase: Phase) -> str:
    kind = "rectangles" if phase.rectangular_val else "squares"
    resized = f" from {phase.val_resize}" if phase.val_resize else ""
    return f"{kind} of {phase.val_px} px{resized} of {phase.val_data}, batch {phase.val_batch}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[OptionChange]:
    """What differs between two results of `options_of_result`."""
    found = []
    for key in dict.fromkeys([*now, *before]):
        old, new = before.get(key), now.get(key)
        # A beton that only one of them reads belongs to epochs that the schedules differ in.
        if old == new or (_BETON.fullmatch(key) and None in (old, new)):
            continue
        if key in (SCHEDULE, VALIDATION):
            found.append(_schedules_differ(key, old or [], new or []))
        else:
            found.append(OptionChange(key=key, before=_shown(old), now=_shown(new), harmless=key in HARMLESS))
    return found


def _schedules_differ(key: str, old: Sequence[str], new: Sequence[str]) -> OptionChange:
    """A schedule that only adds epochs leaves what is behind as it was."""
    changed = [epoch for epoch, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    if not changed:
        longer = len(new) > len(old)
        return OptionChange(key=key, before=f"{len(old)} epochs", now=f"{len(new)}", harmless=longer or key in HARMLESS)
    at, more = changed[0], len(changed) - 1
    others = f" (and {more} more epoch{'s' if more > 1 else ''})" if more else ""
    return OptionChange(
        key=key, before=f"{old[at]!r}{others}", now=f"{new[at]!r} in epoch {at + 1}", harmless=key in HARMLESS
    )


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_changes(found: Sequence[OptionChange], accept: bool, source: Path) -> None:
    """OptionError, with a line for each, if ``found`` holds changes of the result that are not accepted; those that no
    run can continue with are never accepted."""
    refused = [each for each in found if not each.harmless and not (accept and each.key not in FIXED)]
    if not refused:
        return
    remedy = "restore what the checkpoint was made with, or give another --run.dir"
    if not any(each.key in FIXED for each in refused):
        remedy += ", or continue with the change: --run.accept_changes"
    errors = [OptionError(str(each), where=source) for each in refused[:-1]]
    errors.append(OptionError(str(refused[-1]), where=source, remedy=remedy))
    raise OptionError(errors[0].what, where=source, remedy=errors[0].remedy, others=errors[1:])
