"""How long a schedule takes on given machines, and what bounds it.

Three things overlap in a step, and the longest decides: the card's work, the loader's crops, the disk's reads. The
card's work is the forward pass, a third of the computation; then the backward pass or the simultaneous all-reduce,
whichever is longer; then what a step costs whatever its batch is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from training.config.schedule import FULL, VAL_COST, Phase, Schedule, batches_per_epoch
from training.estimation.cards import Card, Software

# What NCCL made of the 25 Gbit/s of an AWS p3.16xlarge over TCP in the published runs on several machines: 7.5, three
# quarters of what a single flow may have there (AWS's guide). RDMA makes more of a link. Fitted to their times.
NETWORK_SHARE = 0.3
HOP_S = 25e-6  # latency of a TCP message in a data centre
BUCKET_BYTES = 25 << 20  # gradients that DDP sends at once
# Crops a second and core, by px: `ours` on one core in benchmarks/results/load.txt.
CROPS_PER_CORE = {128: 6310, 224: 2218, 288: 1196}
# Bytes of an image by cap: those of the 160 and 320 sets there grow with this power; ImageNet's own files, 148 GB.
CAP_160_BYTES, CAP_POWER, FULL_BYTES = 13_479, 1.68, 115_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """``gpus`` cards in ``machines``, each of which accumulates ``accumulated`` batches for a step. ``cores_per_gpu``
    None: the loader keeps up; ``disk_mb_s`` (of a machine) None: so does the disk; ``cache_gb`` None: what was read
    once stays in the page cache."""

    gpus: int
    machines: int = 1
    accumulated: int = 1
    network_gbit: float = 25.0
    cores_per_gpu: float | None = None
    disk_mb_s: float | None = None
    cache_gb: float | None = None

    def allreduce_s(self, size: int) -> float:
        """Seconds of a ring all-reduce of ``size`` bytes between machines; within one, the cards' rates have it."""
        others = self.machines - 1
        sent = 2 * size * others / self.machines
        return sent / (self.network_gbit * 1e9 / 8 * NETWORK_SHARE) + 2 * others * HOP_S * -(-size // BUCKET_BYTES)

    def crop_s(self, px: int) -> float:
        """Seconds of a card's share of the loader for one image."""
        if self.cores_per_gpu is None:
            return 0.0
        nearest = min(CROPS_PER_CORE, key=lambda known: abs(known - px))
        return (px / nearest) ** 2 / (CROPS_PER_CORE[nearest] * self.cores_per_gpu)

    def read_s(self, data: str, images: int, epochs_before: int) -> float:
        """Disk seconds per image of a card, from set ``data`` of ``images``, already read ``epochs_before`` times.

        A machine reads another share of the set in each epoch, so what is not cached shrinks by (1 - 1/machines).
        """
        if self.disk_mb_s is None:
            return 0.0
        size = image_bytes(data)
        cached = 1 - (1 - 1 / self.machines) ** epochs_before
        if self.cache_gb is not None:
            cached = min(cached, self.cache_gb * 1e9 / (images * size))
        return (1 - cached) * size * self.gpus / self.machines / (self.disk_mb_s * 1e6)


def image_bytes(data: str) -> float:
    """Mean bytes of an image of ImageNet in the set ``data``."""
    return FULL_BYTES if data == FULL else min(CAP_160_BYTES * (int(data) / 160) ** CAP_POWER, FULL_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Seconds of one step, part by part; ``fixed`` is what a step costs whatever its batch is."""

    compute: float
    allreduce: float
    fixed: float
    loader: float
    disk: float

    @property
    def unhidden(self) -> float:
        """The part of the all-reduce that the backward pass does not hide."""
        return max(0.0, self.allreduce - self.compute * 2 / 3)

    @property
    def device(self) -> float:
        return self.compute + self.unhidden + self.fixed

    @property
    def seconds(self) -> float:
        return max(self.device, self.loader, self.disk)

    @property
    def bound(self) -> str:
        if self.disk >= max(self.device, self.loader):
            return f"the disk: {_ms(self.disk)} a step, the cards {_ms(self.device)}"
        if self.loader >= self.device:
            return f"the loader: {_ms(self.loader)} a step, the cards {_ms(self.device)}"
        if self.unhidden > 0 and self.unhidden >= self.fixed:
            return f"the network: {_ms(self.unhidden)} of the all-reduce's {_ms(self.allreduce)} are not hidden"
        if self.fixed >= self.compute:
            return f"small batches: {_ms(self.fixed)} a step whatever its batch, {_ms(self.compute)} for the images"
        return f"the cards: {100 * self.compute / self.device:.0f} % of a step is work on images"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTime:
    """``epochs``: seconds of each epoch, which has ``batches`` for each card and ends with ``validation``; the first
    begins with ``start`` before its first step; ``first`` and ``last``: a step of the first epoch and of the last."""

    phase: Phase
    batches: int
    epochs: tuple[float, ...]
    start: float
    validation: float
    first: StepTime
    last: StepTime

    @property
    def seconds(self) -> float:
        return sum(self.epochs)

    @property
    def images_per_s_per_gpu(self) -> float:
        """Of the last epoch's steps."""
        return self.phase.batch_per_gpu / self.last.seconds

    @property
    def bound(self) -> str:
        cold = self.first.disk >= max(self.first.device, self.first.loader) and self.first.disk > 0
        warm = self.last.bound
        return f"{warm}; its first epoch by the disk" if cold and not warm.startswith("the disk") else warm


def phase_times(
    schedule: Schedule,
    seconds_of: Callable[[Phase], tuple[float, float]],
    software: Software,
    site: Site,
    train: int,
    val: int,
) -> list[PhaseTime]:
    """Times of each phase with ``train`` and ``val`` images.

    ``seconds_of(phase)``: seconds until the first step with other images, and of a card for a training image.
    """

    def step(phase: Phase, image_s: float, epochs_before: int) -> StepTime:
        batch = phase.batch_per_gpu
        return StepTime(
            compute=batch * image_s,
            allreduce=site.allreduce_s(software.parameters * software.gradient_bytes),
            fixed=software.step_s,
            loader=batch * site.crop_s(phase.px),
            disk=batch * site.read_s(phase.data, train, epochs_before),
        )

    times: list[PhaseTime] = []
    epochs_of: dict[str, int] = {}  # a set's, so far
    before: tuple[int, str] | None = None
    for phase in schedule.phases:
        done = epochs_of.get(phase.data, 0)
        epochs_of[phase.data] = done + phase.end - phase.start
        start_s, image_s = seconds_of(phase)
        steps = [step(phase, image_s, epochs) for epochs in range(done, epochs_of[phase.data])]
        image = max(image_s * VAL_COST * (phase.val_px / phase.px) ** 2, site.crop_s(phase.val_px))
        batches = batches_per_epoch(train, phase.batch_per_gpu, site.gpus * site.accumulated) * site.accumulated
        validation = val / site.gpus * image
        seconds = [batches * each.seconds + validation + software.epoch_s for each in steps]
        start = start_s if before != (phase.px, phase.data) else 0.0
        seconds[0] += start
        before = phase.px, phase.data
        times.append(
            PhaseTime(
                phase=phase,
                batches=batches,
                epochs=tuple(seconds),
                start=start,
                validation=validation,
                first=steps[0],
                last=steps[-1],
            )
        )
    return times


def card_times(schedule: Schedule, card: Card, site: Site, train: int, val: int) -> list[PhaseTime]:
    seconds_of = {phase: (card.software.phase_s, card.seconds(phase.px)) for phase in schedule.phases}
    return phase_times(schedule, seconds_of.__getitem__, card.software, site, train, val)


def hours_after(times: list[PhaseTime], epochs: int) -> float:
    return sum(seconds for time in times for seconds in time.epochs[: max(epochs - time.phase.start, 0)]) / 3600
