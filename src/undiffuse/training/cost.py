"""Estimates the cost of a run by timing optimizer steps, or parts of one if a step takes too long."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from undiffuse.compute.wait_policy import CPULoad, cpu_time, load_between
from undiffuse.observer import SILENT, Observer
from undiffuse.training.trainer import Trainer
from undiffuse.wording import count_noun

#: Maximum CPU seconds of all measurements together, and maximum estimated CPU seconds of a warm-up micro-batch.
_MAX_SECONDS, _MAX_WARM_UP_SECONDS = 10.0, 20.0
#: Maximum number of measurements, and the number of steps that must be feasible for timing whole steps.
_MAX_COUNT, _MIN_STEPS = 20, 2


@dataclass(frozen=True)
class Cost:
    """Cost of an optimizer step: data loading, forward and backward pass, optimizer, and weight averages.

    Attributes:
        seconds: duration of a step, one value per measurement.
        images: images per step.
        measured: description of what was measured, and how often.
        processor_seconds: CPU time of a step over all threads, which does not depend on the load of the machine.
        threads: number of threads.
        load: CPU load by other processes during the measurement; None if the system does not report it.
    """

    seconds: tuple[float, ...]
    images: int
    measured: str
    processor_seconds: float
    threads: int
    load: CPULoad | None

    def of_images(self, count: float) -> float:
        """Estimated seconds for ``count`` images, by the median measurement."""
        return statistics.median(self.seconds) * count / self.images

    def spread(self, count: float) -> tuple[float, float]:
        """The same by the fastest and by the slowest measurement."""
        return min(self.seconds) * count / self.images, max(self.seconds) * count / self.images

    def alone(self, count: float) -> float:
        """Lower bound of the seconds for ``count`` images: no other load on the machine and no idle threads."""
        return self.processor_seconds / self.threads * count / self.images


@dataclass(frozen=True)
class _Timing:
    """Duration of each repetition of a task, and its mean CPU seconds."""

    seconds: tuple[float, ...]
    processor_seconds: float

    def times(self, count: float, rest: _Timing) -> _Timing:
        """The timing of ``count`` repetitions followed by ``rest``."""
        seconds = tuple(duration * count + statistics.median(rest.seconds) for duration in self.seconds)
        return _Timing(seconds, self.processor_seconds * count + rest.processor_seconds)


def measured_cost(trainer: Trainer, observer: Observer = SILENT) -> Cost:
    """Measure the cost of a step with a trainer that must be discarded afterwards: its weights are changed.

    Args:
        trainer: a new trainer.
        observer: receives the number of measurements done and their maximum number.
    """
    before = cpu_time()
    timing, description = _step(trainer, observer)
    after = cpu_time()
    load = load_between(before, after) if before is not None and after is not None else None
    threads = torch.get_num_threads()
    return Cost(timing.seconds, trainer.config.batch_images, description, timing.processor_seconds, threads, load)


def _step(trainer: Trainer, observer: Observer) -> tuple[_Timing, str]:
    """Timing of a step, measured as a whole or in parts, and a description of what was measured."""
    config = trainer.config
    whole = config.batch_images // config.num_micro_batches
    size, warm = _warm_up(trainer, whole)
    if size == whole and warm * config.num_micro_batches * (_MIN_STEPS + 1) <= _MAX_SECONDS:
        trainer.trial_step()  # the first step allocates the optimizer's state
        timing = _measure(trainer, trainer.trial_step, observer)
        return timing, f"{count_noun(len(timing.seconds), 'step')} of {count_noun(config.batch_images, 'image')}"
    part = _measure(trainer, lambda: trainer.trial_micro_batch(size), observer)
    trainer.trial_update()
    rest = _measure(trainer, trainer.trial_update, observer, max_count=1)
    timing = part.times(config.batch_images / size, rest)
    if size == whole:
        of = f"of {count_noun(size, 'image')}, {config.num_micro_batches} to a step"
        return timing, f"{count_noun(len(part.seconds), 'micro-batch')} {of}; the optimizer once"
    of = f"{count_noun(size, 'image')} of the {whole} of a micro-batch, more at once may be cheaper"
    return timing, f"{len(part.seconds)} × {of}; the optimizer once"


def _warm_up(trainer: Trainer, whole: int) -> tuple[int, float]:
    """The largest micro-batch size, up to ``whole``, that does not take too long, and its CPU seconds.

    Small batches cost more per image, and the first one most of all, so the size grows by factors of four.
    """
    size, spent = 1, _processor_seconds(lambda: trainer.trial_micro_batch(1))
    while size < whole and spent * (grown := min(4 * size, whole)) / size <= _MAX_WARM_UP_SECONDS:
        size = grown
        spent = _processor_seconds(lambda size=size: trainer.trial_micro_batch(size))  # type: ignore[misc]
    return size, spent


def _processor_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _measure(trainer: Trainer, work: Callable[[], None], observer: Observer, max_count: int = _MAX_COUNT) -> _Timing:
    """Time ``work`` at least once, and repeat it within the limit of CPU time, at most ``max_count`` times."""
    seconds: list[float] = []
    spent = 0.0
    while not seconds or (len(seconds) < max_count and spent * (1 + 1 / len(seconds)) <= _MAX_SECONDS):
        started = time.perf_counter()
        spent += _processor_seconds(work)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        observer.progress(len(seconds), max_count)
    return _Timing(tuple(seconds), spent / len(seconds))
