"""When a run saves its state, and how it stops when it was asked to."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import NoReturn

import torch
import torch.distributed as dist

from training import checkpoint
from training.distributed import Preempted
from training.interrupt import Wishes
from training.job import Job
from training.metrics import Scores
from training.runlog import survived


def save_within_epoch(job: Job, wishes: Wishes, stop: bool) -> None:
    """``last.pt`` as of now, and an end to the run if it is to ``stop``; every process calls it.

    The job's progress holds the place in the epoch and the counts so far, summed over all processes.
    """
    random = wishes.every_rank(torch.get_rng_state())
    wishes.saved()
    if job.place.is_main and job.is_sound():
        # If it is to stop, a checkpoint that cannot be written is the end of the run; else the one before stays.
        with contextlib.nullcontext() if stop else survived(checkpoint.LAST):
            checkpoint.save_last(job.config.run.dir, job.state(random))
    if stop:
        _stop(job, f"batch {job.progress.batch} of epoch {job.progress.epoch + 1}")


def end_of_epoch(job: Job, scores: Scores, averaged: Scores | None, wishes: Wishes) -> None:
    """``last.pt`` after every epoch, and ``best.pt`` where top-5 is the best so far; by the main process."""
    job.progress.scores = {"epoch": job.progress.epoch, **asdict(scores)}
    if averaged is not None:
        job.progress.scores |= {f"ema_{key}": value for key, value in asdict(averaged).items()}
    best = scores.top5 > job.progress.best_top5
    job.progress.best_top5 = max(scores.top5, job.progress.best_top5)
    random = wishes.every_rank(torch.get_rng_state())
    wishes.saved()
    if job.place.is_main and job.is_sound():
        state = job.state(random)
        over = job.progress.epoch == job.schedule.epochs
        with contextlib.nullcontext() if over else survived(checkpoint.LAST):
            checkpoint.save_last(job.config.run.dir, state)
            if best:
                checkpoint.save(job.config.run.dir / checkpoint.BEST, state)
    stop, _ = wishes.agreed()
    if stop and job.progress.epoch < job.schedule.epochs:
        _stop(job, f"the end of epoch {job.progress.epoch}")


def _stop(job: Job, where: str) -> NoReturn:
    if job.place.ranks > 1:
        dist.barrier()  # nobody leaves before the checkpoint is written
    raise Preempted(f"stopped at {where}; the same command continues from {job.config.run.dir}")
