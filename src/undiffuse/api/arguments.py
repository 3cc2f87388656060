"""Checks of arguments that import nothing heavy, so that errors are reported quickly.

Packages that use an argument call the same function, so that each range and its message are stated once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undiffuse.diagnostics.limits import check_near
from undiffuse.errors import UsageError
from undiffuse.limits import TRAINING_SEED_BITS, check_at_least, check_seed
from undiffuse.registry import nearest

#: Numbers of steps of few-step students.
STEPS = (1, 2, 4, 8)
#: ODE solvers of ``invert``: an adaptive one, and one with a fixed number of steps.
ADAPTIVE, FIXED = "rk45", "heun"
SOLVERS = (FIXED, ADAPTIVE)
#: ``exact:swissroll`` stands for the exact denoiser of that source.
EXACT = "exact:"
#: Maximum number of worker processes of ``data prepare``.
_MOST_WORKERS = 1024
#: Minimum number of points for meaningful distances.
_FEWEST_POINTS = 50
#: Minimum number of samples per set in the one-class study.
FEWEST_OF_A_CLASS = 2


def required_model(model: Any) -> Any:
    """The model of a request without a recorded image.

    Raises:
        UsageError: if there is none.
    """
    if model is None:
        raise UsageError("no model is given; give a run folder, a model folder or a bundled name, or --from IMAGE")
    return model


def check_unrecorded(allow_other_model: bool) -> None:
    """Check the arguments of a request without a recorded image.

    Raises:
        UsageError: if other weights than recorded are allowed.
    """
    if allow_other_model:
        raise UsageError("--allow-other-model applies to the image of --from, which is not given; add --from IMAGE")


def check_student_steps(steps: int) -> None:
    """Check that ``distill`` supports this number of steps."""
    if steps not in STEPS:
        raise UsageError(f"--steps must be one of {', '.join(map(str, STEPS))}, got {steps}")


def check_tuning(tolerance: float, seeds: int) -> None:
    """Check the arguments of tuning a time grid.

    Args:
        tolerance: acceptable root-mean-square error of a tuned grid, above 0.
        seeds: number of seeds for tuning, at least 1.
    """
    if not 0 < tolerance < float("inf") or seeds < 1:
        raise UsageError(f"--tolerance and --seeds must be above 0, got {tolerance:g} and {seeds}")


def check_items(num: int) -> None:
    """Check that at least one item is requested."""
    if num < 1:
        raise UsageError(f"at least 1 item must be requested, got {num}")


def check_solver_steps(solver: str, steps: int | None) -> None:
    """Check the number of steps of a solver; an adaptive one takes none.

    Args:
        solver: a row of ``SOLVERS``.
        steps: number of steps; None for the default.
    """
    if steps is not None and solver == ADAPTIVE:
        raise UsageError(f"{ADAPTIVE} picks its own steps; leave --steps out or take --sampler {FIXED}")
    if steps is not None:
        check_at_least("--steps", steps)


def check_counts(counts: Mapping[str, int]) -> None:
    """Check that every count is at least 1."""
    for what, count in counts.items():
        check_at_least(what, count)


def check_examination(
    is_run: bool, near: float | None, num: int | None, recipe: str | None = None, data: str | None = None
) -> None:
    """Check the options of ``doctor`` against the kind of its subject, and their ranges.

    Args:
        is_run: whether a run is examined rather than data.
        near: for data, threshold on the distance of near-duplicates.
        num: for a run, number of samples to draw.
        recipe: for data, the recipe that sets the data options.
        data: for a run, current location of its data.
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
    """Check the number of worker processes."""
    if workers is not None and not 1 <= workers <= _MOST_WORKERS:
        raise UsageError(f"--workers must be in 1..{_MOST_WORKERS}, got {workers}")


def check_points(num: int, seed: int) -> None:
    """Check the number of points and the seed of a theory study.

    Args:
        num: points in each cloud.
        seed: of the first.
    """
    check_at_least("--num", num, _FEWEST_POINTS, "for distances to mean anything")
    check_seed(seed)


def check_trainings(images: int | None, samples: int, seed: int, fewest_samples: int = 1) -> None:
    """Check the arguments of a study that trains several models.

    Args:
        images: seen by each training; ``None`` if the study determines it.
        samples: drawn from each model, at least ``fewest_samples``.
        seed: of the trainings.
        fewest_samples: minimum number of samples.
    """
    if images is not None:
        check_at_least("--images", images)
    check_at_least("--num", samples, fewest_samples)
    check_seed(seed, TRAINING_SEED_BITS)


def check_passes(images: int, epochs: int, every: int) -> None:
    """Check the arguments of the small-data study.

    Args:
        images: to train on, at least 1.
        epochs: number of epochs.
        every: epochs between two evaluations.
    """
    check_counts({"--images": images, "--epochs": epochs, "--every": every})


def check_solver(name: str) -> None:
    """Check that ``invert`` has this solver."""
    if name not in SOLVERS:
        raise UsageError(f"unknown solver {name!r}; {nearest(name, SOLVERS)}")


def check_process(process: str | None) -> None:
    """Raise if a process is given for a trained model, which has its own."""
    if process is not None:
        raise UsageError("--process is for exact:NAME; a trained model has its own process")


def check_texts(name: str, given: Sequence[str]) -> None:
    """Check that an argument is a list of strings; a single string would be read letter by letter.

    Args:
        name: of the argument, for the message.
        given: value of the argument.
    """
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise UsageError(f"{name} must be a list of texts, such as [{str(given)!r}], got {given!r}")


def check_data_named(data: str | None, options: Sequence[str]) -> None:
    """Raise if options of a data source are given without a source.

    Args:
        data: value of ``--data``, if given.
        options: ``key=value`` texts for that source.
    """
    if options and data is None:
        raise UsageError(f"{options[0]} applies to the data of --data, which is not given; add --data SRC")
