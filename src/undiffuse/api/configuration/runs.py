"""The configuration of a run: from a recipe with overrides, from data, from a file, or from an existing run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from undiffuse.api.configuration.fine_tuning import fine_tuned
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.recipe_choice import proposed
from undiffuse.api.configuration.starts import check_beginning, config_file, record_in
from undiffuse.api.configuration.text_folder import with_text_from
from undiffuse.checksums import is_modified
from undiffuse.config import validate
from undiffuse.data import source_config_for
from undiffuse.errors import UsageError
from undiffuse.models.files.components import training_section
from undiffuse.models.files.record import check_format
from undiffuse.models.files.wrapped import NAME as WRAPPED
from undiffuse.models.saved import read_config
from undiffuse.observer import announce, note
from undiffuse.recipes import get_recipe
from undiffuse.training.config import RunConfig as RunConfig


def configure(
    recipe: str | None,
    overrides: Sequence[str],
    data: str | None,
    out: Path | None,
    resume: bool,
    device: str = "auto",
    file: Path | None = None,
    start: str | Path | None = None,
    start_weights: str = "ema",
) -> RunConfig:
    """The requested configuration; without a recipe that of a file, of the run to be resumed, or of
    the recipe proposed for the data, which is announced.

    With data other than the recipe's, quality is evaluated during training only if an override requests it: the set may
    be too small for the number of features.

    Args:
        recipe: its name; None to choose one by the data, or for a run that is resumed.
        overrides: ``key=value`` texts.
        data: a source that replaces the recipe's.
        out: folder of the run.
        resume: use the configuration of the run in ``out``.
        device: ``cpu``, ``cuda`` or ``auto``; the choice of a recipe depends on it.
        file: holds a configuration, such as a run's ``config.json``.
        start: model that the run starts from, whose configuration is used.
        start_weights: ``ema`` or ``raw``.
    """
    check_beginning(recipe, data, file, resume, out, start)
    if start is not None and data is not None:
        return placed(fine_tuned(start, overrides, data, start_weights))
    return placed(_configured(recipe, overrides, data, out, resume, device, file))


def placed(config: RunConfig) -> RunConfig:
    """The same with absolute paths of the data and the text encoder, so that any working directory resumes the run."""
    config = with_text_from(config, Path())
    path = getattr(config.data, "path", None)
    if path is None:
        return config
    data = config.data.model_copy(update={"path": type(path)(Path(path).expanduser().absolute())})
    return config.model_copy(update={"data": data})


def _configured(
    recipe: str | None,
    overrides: Sequence[str],
    data: str | None,
    out: Path | None,
    resume: bool,
    device: str,
    file: Path | None,
) -> RunConfig:
    source = source_config_for(data) if data is not None else None
    if file is not None:
        return apply_overrides(config_in(file), overrides, source)
    if recipe is None and data is not None and source is not None and not resume:
        config, words = proposed(source, data, overrides, device)
        announce(words)
        return config
    if source is not None and recipe is not None:
        overrides = ["quality_every_images=0", *overrides]
    if recipe is not None:
        return apply_overrides(get_recipe(recipe), overrides, source)
    assert out is not None
    return apply_overrides(saved_config(out), overrides, source)


def config_in(file: Path) -> RunConfig:
    """The configuration in a file: a run's ``config.json``, or only its part ``config``.

    An edited file is accepted with a note, as nothing has been trained with it yet.

    Raises:
        UsageError: no such file, or one that holds no configuration.
    """
    record, file = record_in(file), config_file(file)
    if is_modified(record):
        note(f"{file} was changed after it was written; the run uses its current content")
    whole = "format_version" in record
    if whole:
        check_format(record["format_version"], str(file))
    return with_text_from(validate(RunConfig, record["config"] if whole else record, f"--config {file}"), file.parent)


def saved_config(out: Path) -> RunConfig:
    """The configuration that the run in ``out`` was started with.

    Raises:
        UsageError: it was not trained by undiffuse, or its configuration is corrupt.
    """
    record = read_config(out)
    if training_section(record)["name"] == WRAPPED:
        raise UsageError(f"{out} is a wrapped external denoiser, which was not trained here; name a run of undiffuse")
    return with_text_from(validate(RunConfig, record["config"], f"{out / 'config.json'}: config"), out)
