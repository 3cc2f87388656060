"""What a run will cost, found out by doing some of it: whole steps, or as much of one as quickly enough goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from undiffuse.compute.wait_policy import CPULoad, cpu_time, load_between
from undiffuse.observer import SILENT, Observer
from undiffuse.training.trainer import Trainer
from undiffuse.wording import counted

#: Processor-seconds that the measurements may take together, and the longest that is begun in order to warm up.
_SECONDS, _LONGEST = 10.0, 20.0
#: Measurements at most; fewer than these of a whole step are rather made of its parts.
_MOST, _FEWEST = 20, 2


@dataclass(frozen=True)
class Cost:
    """The cost of an optimizer step with all that belongs to one: loading, forward, backward, optimizer, averages.

    Attributes:
        seconds: of a step, a value for each time that it was measured.
        images: of a step.
        measured: what was measured, and how often, in words.
        processor_seconds: of a step, over all threads: what it costs however busy the machine is.
        threads: that share them.
        load: what else went on meanwhile; None where the system does not tell.
    """

    seconds: tuple[float, ...]
    images: int
    measured: str
    processor_seconds: float
    threads: int
    load: CPULoad | None

    def of_images(self, count: float) -> float:
        """Seconds for so many images, by the median."""
        return statistics.median(self.seconds) * count / self.images

    def spread(self, count: float) -> tuple[float, float]:
        """The same by the quickest and by the slowest measurement."""
        return min(self.seconds) * count / self.images, max(self.seconds) * count / self.images

    def alone(self, count: float) -> float:
        """Seconds for so many images on a machine without other work, if no thread ever waited: no less is possible."""
        return self.processor_seconds / self.threads * count / self.images


@dataclass(frozen=True)
class _Taken:
    """How long a piece of work took, each time, and its processor-seconds, on average."""

    seconds: tuple[float, ...]
    processor_seconds: float

    def times(self, count: float, more: _Taken) -> _Taken:
        """``count`` times the work, and ``more`` after it."""
        seconds = tuple(one * count + statistics.median(more.seconds) for one in self.seconds)
        return _Taken(seconds, self.processor_seconds * count + more.processor_seconds)


def measured_cost(trainer: Trainer, observer: Observer = SILENT) -> Cost:
    """Measure a trainer that is thrown away afterwards: its weights have moved.

    Args:
        observer: hears of the measurements done, of those made at most.
    """
    before = cpu_time()
    taken, words = _step(trainer, observer)
    after = cpu_time()
    load = load_between(before, after) if before is not None and after is not None else None
    threads = torch.get_num_threads()
    return Cost(taken.seconds, trainer.config.batch_images, words, taken.processor_seconds, threads, load)


def _step(trainer: Trainer, observer: Observer) -> tuple[_Taken, str]:
    """A step, whole or put together from parts, and in words what was measured of it."""
    config = trainer.config
    whole = config.batch_images // config.num_micro_batches
    size, warm = _warm_up(trainer, whole)
    if size == whole and warm * config.num_micro_batches * (_FEWEST + 1) <= _SECONDS:
        trainer.rehearse_step()  # the first one makes room for the optimizer's state
        taken = _taken(trainer, trainer.rehearse_step, observer)
        return taken, f"{counted(len(taken.seconds), 'step')} of {counted(config.batch_images, 'image')}"
    part = _taken(trainer, lambda: trainer.rehearse_micro_batch(size), observer)
    trainer.rehearse_move()
    rest = _taken(trainer, trainer.rehearse_move, observer, most=1)
    taken = part.times(config.batch_images / size, rest)
    if size == whole:
        of = f"of {counted(size, 'image')}, {config.num_micro_batches} to a step"
        return taken, f"{counted(len(part.seconds), 'micro-batch')} {of}; the optimizer once"
    of = f"{counted(size, 'image')} of the {whole} of a micro-batch, more at once may be cheaper"
    return taken, f"{len(part.seconds)} × {of}; the optimizer once"


def _warm_up(trainer: Trainer, whole: int) -> tuple[int, float]:
    """The largest micro-batch, up to the ``whole`` one, that does not take too long, and its processor-seconds.

    Few images at a time cost more each, and the first ones most, so it is approached by fours.
    """
    size, spent = 1, _processor_seconds(lambda: trainer.rehearse_micro_batch(1))
    while size < whole and spent * (grown := min(4 * size, whole)) / size <= _LONGEST:
        size = grown
        spent = _processor_seconds(lambda size=size: trainer.rehearse_micro_batch(size))  # type: ignore[misc]
    return size, spent


def _processor_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _taken(trainer: Trainer, work: Callable[[], None], observer: Observer, most: int = _MOST) -> _Taken:
    """Do ``work`` once, and again as long as the processor's time allows, at most so often."""
    seconds: list[float] = []
    spent = 0.0
    while not seconds or (len(seconds) < most and spent * (1 + 1 / len(seconds)) <= _SECONDS):
        started = time.perf_counter()
        spent += _processor_seconds(work)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        observer.progress(len(seconds), most)
    return _Taken(tuple(seconds), spent / len(seconds))
