"""Checks of output paths that import nothing heavy.

They find certain errors early; the commands check the whole folder again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from undiffuse.errors import UsageError
from undiffuse.files import (
    check_output_folder,
    check_replaceable_folder,
    check_writable,
    is_empty,
    is_temporary_or_lock,
)
from undiffuse.models.sample_sets.files import OWN_FILES

#: Image grid that the demo writes into its folder before the run starts.
BUNDLED_GRID = "bundled.png"


class Results(NamedTuple):
    """A kind of results with its own folder.

    Attributes:
        noun: their name, in the plural or with an article.
        marker: file that identifies such a folder.
        own: names of all files it may contain; ``--overwrite`` deletes no others.
    """

    noun: str
    marker: str
    own: re.Pattern[str]


SAMPLES = Results("samples", "samples.json", OWN_FILES)
LATENTS = Results("latents", "encode.json", re.compile(r"latents\.npy|encode\.json|roundtrip\.png"))
#: Files of an embedded text encoder, see ``conditioning.text.frozen_folder``.
_EMBEDDED = r"text_encoder/([\w.-]+\.(json|txt|model|safetensors))?"
EXPORTED = Results(
    "an exported model",
    "config.json",
    re.compile(rf"config\.json|[a-z]\w*\.safetensors|model_card\.md|{_EMBEDDED}"),
)
STUDY = Results("a study", "study.json", re.compile(r"[a-z0-9_-]+\.png|study\.json|README\.md"))


def check_out(out: str | Path | None) -> None:
    """Check that ``out`` can be created as a folder."""
    if out is not None:
        check_output_folder(Path(out))


def check_file(out: str | Path | None, such_as: str, option: str = "--out") -> None:
    """Check that a file can be written.

    Args:
        out: the file, or None.
        such_as: example of a file name, for the message.
        option: of the command line that names the file.
    """
    if out is None:
        return
    if (out := Path(out)).is_dir():
        raise UsageError(f"{option} {out} is a folder; name a file such as {out / such_as}")
    check_writable(out)


def check_distinct(folders: Sequence[Path]) -> None:
    """Check that no run is given twice."""
    places = [folder.resolve() for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} is given more than once; name each run once")


def check_results(out: str | Path | None, kind: Results, overwrite: bool) -> None:
    """Check that a folder of results can be written.

    Args:
        out: the folder, or None.
        kind: of results.
        overwrite: whether existing results of that kind may be replaced.
    """
    if out is not None:
        check_replaceable_folder(Path(out), *kind, overwrite=overwrite)


def check_export(out: str | Path, model: str | Path, overwrite: bool) -> None:
    """Check that an exported model can be written; it must not replace its source.

    Args:
        out: the folder.
        model: folder of the exported model.
        overwrite: whether an existing exported model may be replaced.
    """
    check_results(out := Path(out), EXPORTED, overwrite)
    if out.exists() and out.resolve() == Path(model).resolve():
        raise UsageError(f"--out {out} is the model itself; name another folder")


def study_folder(study: str, model: str | Path) -> Path:
    """Default folder of a study of a model.

    Args:
        study: name of the study.
        model: a folder, or a bundled name.
    """
    return Path("studies") / f"{study}-{Path(model).resolve().name}"


def check_study_folder(out: str | Path) -> None:
    """Check that a study of several trainings can be written to, or resumed in, a folder.

    Args:
        out: folder of the study, with ``cells/`` and ``runs/`` if it was interrupted.
    """
    check_output_folder(out := Path(out))
    if out.is_dir() and any(out.iterdir()) and not (out / "cells").is_dir() and not (out / "runs").is_dir():
        raise UsageError(f"--out {out} holds something other than this study; name another folder")


def check_new_run(out: str | Path | None, resume: bool) -> None:
    """Check that a run can be written to a folder.

    Args:
        out: folder of the run, or None.
        resume: whether a run there is resumed.
    """
    if out is None:
        return
    check_empty_or_run(out := Path(out))
    checkpoints = out / "checkpoints"
    if not resume and (out / "config.json").is_file() and checkpoints.is_dir() and not is_empty(checkpoints):
        raise run_exists_error(out)


def check_empty_or_run(out: Path) -> None:
    """Raise if the folder is not empty and not a run."""
    check_output_folder(out)
    if (out / "config.json").is_file() or not out.is_dir():
        return
    if any(not is_temporary_or_lock(path) and path.name != BUNDLED_GRID for path in out.iterdir()):
        raise UsageError(f"--out {out} is not empty and holds no run; name another folder")


def run_exists_error(out: Path) -> UsageError:
    """The error for a folder with a run in it."""
    return UsageError(f"{out} already holds a run; add --resume to resume it, or name another --out")
