"""``undiffuse distill``: train a student that samples in a few steps from a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from undiffuse.api.arguments import STEPS as STEPS
from undiffuse.api.arguments import check_student_steps, check_texts
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.runs import saved_config
from undiffuse.api.loading import find_model
from undiffuse.api.training import TrainedRun, train_to_end
from undiffuse.cancellation import Cancel
from undiffuse.config import explain
from undiffuse.data import source_config_for
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.locking import output_folder
from undiffuse.models.denoising import DenoisingConfig
from undiffuse.models.files.weights import WEIGHTS
from undiffuse.objectives.teacher import TeacherConfig
from undiffuse.observer import Observing, observing
from undiffuse.recipes.few_step import DISTILLATIONS
from undiffuse.registry import known_keywords, lookup
from undiffuse.training.config import RunConfig
from undiffuse.wording import command


def configure(
    model: str | Path,
    steps: int,
    method: str,
    overrides: Sequence[str],
    data: str | None,
    start: str | Path | None = None,
) -> RunConfig:
    """Configuration of the run that distills ``model``.

    Args:
        model: the teacher: the folder of a run or of an exported model, or the name of a bundled one.
        steps: of the student, one of ``STEPS``.
        method: a row of ``DISTILLATIONS``.
        overrides: ``num_images=50000``, ``system.stage_images=5000``; see ``apply_overrides``.
        data: other data than the teacher's.
        start: another model with the student's initial weights, for methods that support it.
    Raises:
        UsageError: no such model or method, other steps, a model without a denoiser, or ``start`` for a method whose
            students start as their teacher.
    """
    check_student_steps(steps)
    student_of = lookup(DISTILLATIONS, method, "distillation method")
    folder = find_model(model).resolve()
    run = saved_config(folder)
    if not isinstance(run.system, DenoisingConfig):
        raise UsageError(f"{model} is a {run.system.name!r} model, which has no denoiser; give a diffusion model")
    source = source_config_for(data) if data is not None else None
    try:
        student: RunConfig = student_of(_named(folder), run, steps)
    except ValidationError as error:
        raise UsageError(explain(error, RunConfig, f"method {method!r}")) from None
    if start is not None and not hasattr(student.system, "start"):
        raise UsageError(f"students of method {method!r} start as their teacher; leave --start out")
    begins = [] if start is None else [f"system.start={_named(find_model(start).resolve()).model_dump_json()}"]
    return apply_overrides(student, [*begins, *overrides], source)


def _named(folder: Path) -> TeacherConfig:
    """Configuration of the teacher in a folder, with the checksum of its weights."""
    weights = folder / WEIGHTS["ema"]
    if not weights.is_file():
        on = command("train", "--resume", "--out", folder)
        raise UsageError(f"{folder} has no {weights.name} yet; train it on until a checkpoint is written: {on}")
    return TeacherConfig(path=str(folder), sha256=sha256_of(weights))


@known_keywords
def distill(
    model: str | Path,
    steps: int = 2,
    method: str = "consistency",
    overrides: Sequence[str] = (),
    *,
    data: str | Path | None = None,
    start: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    stop_after_seconds: float | None = None,
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> TrainedRun:
    """Distill a trained model into a student that samples in a few steps.

    Args:
        model: the teacher: a run folder, a model folder or a bundled name.
        steps: of the student: 1, 2, 4 or 8.
        method: ``consistency``, ``distribution_matching``, ``progressive`` or ``mean_flow``.
        overrides: ``key=value`` texts, such as ``num_images=50000``.
        data: other data than the teacher's.
        start: another model with the student's initial weights.
        out: folder of the run; ``runs/distilled-RECIPE-NNN`` by default.
        resume: from the newest valid checkpoint in ``out``.
        stop_after_seconds: stop with a checkpoint after this time.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: see ``train``.
        cancel: see ``train``.
    Returns:
        The run, finished or not.
    Raises:
        UsageError: no such model or method, or a model without a denoiser.
    """
    check_texts("overrides", overrides)
    where = Path(out).expanduser() if out is not None else None
    with observing(observer, cancel):
        config = configure(model, steps, method, overrides, str(data) if data is not None else None, start)
        with output_folder(where, Path("runs"), config.recipe) as folder:
            return train_to_end(config, folder, resume, stop_after_seconds, device)
