"""Arguments that make no sense, refused before anything heavy is imported.

Each is asked by the room that uses it as well, of the same function: there is one statement of a range and one message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from undiffuse.diagnostics.limits import check_near
from undiffuse.errors import UsageError
from undiffuse.limits import TRAINING_SEED_BITS, check_at_least, check_seed
from undiffuse.registry import nearest

#: Steps that a student of few may be made for.
STEPS = (1, 2, 4, 8)
#: Solvers of ``encode``: one that picks its own steps, and one of ``--steps``.
ADAPTIVE, FIXED = "rk45", "heun"
SOLVERS = (FIXED, ADAPTIVE)
#: ``exact:swissroll`` stands for the exact denoiser of that source.
EXACT = "exact:"
#: Processes that ``data prepare`` may have.
_MOST_WORKERS = 1024
#: Points whose distance says something.
_FEWEST_POINTS = 50
#: Samples of each set that the study of one class can compare.
FEWEST_OF_A_CLASS = 2


def check_student_steps(steps: int) -> None:
    """Refuse numbers of steps that ``distill`` makes no student for."""
    if steps not in STEPS:
        raise UsageError(f"--steps must be one of {', '.join(map(str, STEPS))}, got {steps}")


def check_tuning(tolerance: float, seeds: int) -> None:
    """Refuse what no time grid can be tuned to.

    Args:
        tolerance: root-mean-square error that a tuned grid may have, above 0.
        seeds: that the grid is tuned with, at least 1.
    """
    if not 0 < tolerance < float("inf") or seeds < 1:
        raise UsageError(f"--tolerance and --seeds must be above 0, got {tolerance:g} and {seeds}")


def check_items(num: int) -> None:
    """Refuse to encode nothing."""
    if num < 1:
        raise UsageError(f"at least 1 item must be asked for, got {num}")


def check_solver_steps(solver: str, steps: int | None) -> None:
    """Refuse steps of a solver that picks its own, and none of the other.

    Args:
        solver: a row of ``SOLVERS``.
        steps: of it; None for the default.
    """
    if steps is not None and solver == ADAPTIVE:
        raise UsageError(f"{ADAPTIVE} picks its own steps; leave --steps out or take --sampler {FIXED}")
    if steps is not None:
        check_at_least("--steps", steps)


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse to look at nothing, of any of the things counted."""
    for what, count in counts.items():
        check_at_least(what, count)


def check_examination(
    is_run: bool, near: float | None, num: int | None, recipe: str | None = None, data: str | None = None
) -> None:
    """Refuse options that do not go with what ``doctor`` examines, and numbers out of range.

    Args:
        is_run: whether a run is examined, and not data.
        near: limit on the distance of near-duplicates, of data.
        num: samples to draw, of a run.
        recipe: that data is read by.
        data: where the data of a run lies now.
    """
    if is_run and near is not None:
        raise UsageError("--near is for data, and this is a run; leave it out")
    if is_run and recipe is not None:
        raise UsageError("--recipe is for data, and this is a run, which has its own; leave it out")
    if not is_run and data is not None:
        raise UsageError("--data is for runs, and this is data itself; leave it out")
    if not is_run and num is not None:
        raise UsageError("--num is for runs, and this is data; leave it out")
    if near is not None:
        check_near(near)
    if num is not None:
        check_at_least("--num", num)


def check_workers(workers: int | None) -> None:
    """Refuse numbers of processes that are none."""
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise UsageError(f"--workers must be in 1..{_MOST_WORKERS}, got {workers}")


def check_points(num: int, seed: int) -> None:
    """Refuse a study of theory on too few points.

    Args:
        num: points in each cloud.
        seed: of the first.
    """
    check_at_least("--num", num, _FEWEST_POINTS, "for distances to mean anything")
    check_seed(seed)


def check_trainings(images: int | None, samples: int, seed: int, fewest_samples: int = 1) -> None:
    """Refuse a study that trains several models on nothing, draws too little, or begins at no seed.

    Args:
        images: seen by each training; ``None`` where the study says how many.
        samples: drawn of each model, at least ``fewest_samples``.
        seed: of the trainings.
        fewest_samples: that the study can measure.
    """
    if images is not None:
        check_at_least("--images", images)
    check_at_least("--num", samples, fewest_samples)
    check_seed(seed, TRAINING_SEED_BITS)


def check_passes(images: int, epochs: int, every: int) -> None:
    """Refuse a study of little data on none, or that never measures.

    Args:
        images: to train on, at least 1.
        epochs: passes over them.
        every: epochs between two measurements.
    """
    check_counts({"--images": images, "--epochs": epochs, "--every": every})


def check_solver(name: str) -> None:
    """Refuse a solver that ``invert`` does not have."""
    if name not in SOLVERS:
        raise UsageError(f"unknown solver {name!r}; {nearest(name, SOLVERS)}")


def check_process(process: str | None) -> None:
    """Refuse another process than a trained model's own."""
    if process is not None:
        raise UsageError("--process is for exact:NAME; a trained model has its own process")


def check_texts(name: str, given: Sequence[str]) -> None:
    """Refuse one text, which would be read letter by letter, and what is no text.

    Args:
        name: of the argument, for the message.
        given: that should be several texts.
    """
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise UsageError(f"{name} must be a list of texts, such as [{str(given)!r}], got {given!r}")


def check_data_named(data: str | None, options: Sequence[str]) -> None:
    """Refuse options of data that none is named for.

    Args:
        data: what ``--data`` names, if anything.
        options: ``key=value`` of it.
    """
    if options and data is None:
        raise UsageError(f"{options[0]} is said of the data that --data names, and none is named; add --data SRC")
