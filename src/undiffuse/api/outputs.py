"""Where nothing can be written, or something stands already, found before seconds of importing.

What is said here is certain whatever else stands there; the commands look at the whole folder once more.
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

#: The sheet that the demo puts into its folder before there is a run.
BUNDLED_GRID = "bundled.png"


class Results(NamedTuple):
    """A kind of results that has a folder of its own.

    Attributes:
        noun: what they are, in the plural or with an article.
        marker: the file that each such folder has.
        own: the names of all files that it may have; ``--overwrite`` deletes no other.
    """

    noun: str
    marker: str
    own: re.Pattern[str]


SAMPLES = Results("samples", "samples.json", OWN_FILES)
LATENTS = Results("latents", "encode.json", re.compile(r"latents\.npy|encode\.json|roundtrip\.png"))
EXPORTED = Results("an exported model", "config.json", re.compile(r"config\.json|[a-z]\w*\.safetensors|model_card\.md"))
STUDY = Results("a study", "study.json", re.compile(r"[a-z0-9_-]+\.png|study\.json|README\.md"))


def check_out(out: str | Path | None) -> None:
    """Refuse what no folder can be made of."""
    if out is not None:
        check_output_folder(Path(out))


def check_file(out: str | Path | None, such_as: str, option: str = "--out") -> None:
    """Refuse what may not be written to, and a folder in a file's place.

    Args:
        out: a file to be written, or None.
        such_as: a name for the advice.
        option: that names the file on a command line.
    """
    if out is None:
        return
    if (out := Path(out)).is_dir():
        raise UsageError(f"{option} {out} is a folder; name a file such as {out / such_as}")
    check_writable(out)


def check_once(folders: Sequence[Path]) -> None:
    """Refuse a run that is named twice."""
    places = [folder.resolve() for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} is given more than once; name each run once")


def check_results(out: str | Path | None, kind: Results, overwrite: bool) -> None:
    """Refuse what no folder of results can be made of, and results of the same kind that may not go.

    Args:
        out: a folder to be written, or None.
        kind: of results.
        overwrite: whether results of that kind may be replaced.
    """
    if out is not None:
        check_replaceable_folder(Path(out), *kind, overwrite=overwrite)


def check_export(out: str | Path, model: str | Path, overwrite: bool) -> None:
    """The same of an exported model, which may not replace the one that it is of.

    Args:
        out: the folder to be written.
        model: the folder of the model, which it may not be.
        overwrite: whether an exported model may be replaced.
    """
    check_results(out := Path(out), EXPORTED, overwrite)
    if out.exists() and out.resolve() == Path(model).resolve():
        raise UsageError(f"--out {out} is the model itself; name another folder")


def study_folder(study: str, model: str | Path) -> Path:
    """Where a study of a model goes unless another folder is named.

    Args:
        study: its name.
        model: a folder, or a bundled name.
    """
    return Path("studies") / f"{study}-{Path(model).resolve().name}"


def check_study_folder(out: str | Path) -> None:
    """Refuse what no study of several trainings can be put into, or gone on with.

    Args:
        out: of the study, with ``cells/`` and ``runs/`` in it where it was interrupted.
    """
    check_output_folder(out := Path(out))
    if out.is_dir() and any(out.iterdir()) and not (out / "cells").is_dir() and not (out / "runs").is_dir():
        raise UsageError(f"--out {out} holds something other than this study; name another folder")


def check_new_run(out: str | Path | None, resume: bool) -> None:
    """Refuse what no run can be put into.

    Args:
        out: folder of the run, or None.
        resume: whether a run there is resumed.
    """
    if out is None:
        return
    check_no_other(out := Path(out))
    checkpoints = out / "checkpoints"
    if not resume and (out / "config.json").is_file() and checkpoints.is_dir() and not is_empty(checkpoints):
        raise run_is_there(out)


def check_no_other(out: Path) -> None:
    """Refuse a folder with anything in it that is no run."""
    check_output_folder(out)
    if (out / "config.json").is_file() or not out.is_dir():
        return
    if any(not is_temporary_or_lock(path) and path.name != BUNDLED_GRID for path in out.iterdir()):
        raise UsageError(f"--out {out} is not empty and holds no run; name another folder")


def run_is_there(out: Path) -> UsageError:
    """A run that has come to something keeps its folder."""
    return UsageError(f"{out} already holds a run; add --resume to go on with it, or name another --out")
