"""Runs of one recipe as a sample: how much they differ, and how many reach the target."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_tools.common.console import plural
from data_tools.common.imagenet import IMAGENET_CLASSES, TARGET_TOP5
from training.reporting.run_folder import RunFolder
from training.runlog.epoch_table import duration

# They change what is attempted or shown, or how fast it goes, but not what is learned or how it is scored.
OTHERS = {"train.compile"}
# Of the other sections, what the result depends on.
ALSO = {"data.augment", "data.page_window", "run.init_from"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSample:
    """Runs of one recipe; ``runs`` have scores of the last epoch, ``incomplete`` others do not."""

    runs: Sequence[RunFolder]
    incomplete: int

    @property
    def title(self) -> str:
        return f"{plural(len(self.runs), 'run')} of one recipe"


def recipe(run: RunFolder) -> str:
    """What runs of one recipe have in common: everything that the result depends on except seed and betons."""
    options = {
        key: value
        for key, value in run.options().items()
        if (key.startswith(("model.", "train.")) or key in ALSO) and key not in OTHERS
    }
    setting = run.sessions[-1].classes, run.sessions[-1].precision
    # With the schedule's batch per GPU, the first epoch's global batch stands for the number of GPUs, real or emulated.
    return repr((run.schedule, sorted(options.items()), setting, run.rows[0].global_batch))


def samples(runs: Sequence[RunFolder]) -> list[RunSample]:
    """The recipes of which at least two of ``runs`` are complete."""
    by_recipe: dict[str, list[RunFolder]] = {}
    for run in runs:
        by_recipe.setdefault(recipe(run), []).append(run)
    complete = [[*filter(_is_complete, runs)] for runs in by_recipe.values()]
    pairs = zip(by_recipe.values(), complete, strict=True)
    return [RunSample(runs=done, incomplete=len(group) - len(done)) for group, done in pairs if len(done) > 1]


def _is_complete(run: RunFolder) -> bool:
    return run.rows[-1].epoch == run.schedule.epochs and math.isfinite(run.rows[-1].top1 + run.rows[-1].top5)


def sample_summary(sample: RunSample) -> Iterator[tuple[str, str]]:
    """A sample as (measure, value) pairs."""
    runs, by_top5 = sample.runs, sample.runs[0].by_top5
    for column, label in (("top5", "top-5"), ("top1", "top-1")) if by_top5 else (("top1", "top-1"),):
        yield f"{label}, last epoch", _spread([float(getattr(run.rows[-1], column)) for run in runs])
    if by_top5:
        yield from _target(runs)
    seeds = len({run.options().get("run.seed") for run in runs})
    same = "" if seeds == len(runs) else "; runs of one seed differ by rounding alone, so they tell less"
    yield "seeds", f"{seeds} in {plural(len(runs), 'run')}{same}"
    if sample.incomplete:
        yield "left out", f"{plural(sample.incomplete, 'run')} without scores of the last epoch"


def _spread(values: Sequence[float]) -> str:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return f"mean {mean:.3f} %, sd {sd:.3f} ({min(values):.3f} to {max(values):.3f})"


def _share(hits: int, runs: int) -> str:
    """A share, with its interval by Wilson (1927)."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # takes a second

    low, high = binomtest(hits, runs).proportion_ci(method="wilson")
    return f"{hits} of {runs}, {100 * hits / runs:.0f} % (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"


def _target(runs: Sequence[RunFolder]) -> Iterator[tuple[str, str]]:
    """How many reach the target, and when."""
    at_end = sum(run.rows[-1].top5 >= TARGET_TOP5 for run in runs)
    reached = [row for run in runs if (row := run.reached()) is not None]
    yield f"{TARGET_TOP5:g} % in the last epoch", _share(at_end, len(runs))
    yield f"{TARGET_TOP5:g} % in any epoch", _share(len(reached), len(runs))
    if reached:
        hours = [row.hours for row in reached]
        sd = f", sd {duration(statistics.stdev(hours))}" if len(hours) > 1 else ""
        of = f", of the {len(hours)} that reached it" if len(hours) < len(runs) else ""
        said = (
            "by the first epoch at or above it, which is optional stopping: every epoch is another try, so it favours "
            "the run over an epoch fixed beforehand"
        )
        yield f"time to {TARGET_TOP5:g} %", f"mean {duration(statistics.fmean(hours))}{sd}{of}; {said}"
    if runs[0].sessions[-1].classes == IMAGENET_CLASSES:
        # NVIDIA's ResNet-50 v1.5 for PyTorch gives 0.04 to 0.18 points of top-1 for its schedules.
        yield (
            "against the published",
            "93.02 to 93.05 % lie 0.02 to 0.05 above 93 %, and runs of one recipe differ by about 0.1: one run above "
            "the target, or below it, tells little",
        )
