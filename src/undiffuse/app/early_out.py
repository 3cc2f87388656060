"""Where nothing can be written, or something stands already, found before seconds of importing.

What is said here is certain whatever else stands there; the commands look at the whole folder once more.
"""

from __future__ import annotations

from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.files import check_folder_to_be, check_not_kept, check_writable, is_bare, is_passing

#: The sheet that the demo puts into its folder before there is a run.
BUNDLED_SHEET = "bundled.png"


def check_out(out: str | Path | None) -> None:
    """Refuse what no folder can be made of."""
    if out is not None:
        check_folder_to_be(Path(out))


def check_file(out: str | Path | None) -> None:
    """Refuse what may not be written to."""
    if out is not None:
        check_writable(Path(out))


def check_results(out: str | Path | None, noun: str, marker: str, overwrite: bool) -> None:
    """Refuse what no folder of results can be made of, and results of the same kind that may not go."""
    if out is not None:
        check_folder_to_be(Path(out))
        check_not_kept(Path(out), noun, marker, overwrite=overwrite)


def check_new_run(out: str | Path | None, resume: bool) -> None:
    """Refuse what no run can be put into."""
    if out is None:
        return
    check_no_other(out := Path(out))
    checkpoints = out / "checkpoints"
    if not resume and (out / "config.json").is_file() and checkpoints.is_dir() and not is_bare(checkpoints):
        raise run_is_there(out)


def check_no_other(out: Path) -> None:
    """Refuse a folder with anything in it that is no run."""
    check_folder_to_be(out)
    if (out / "config.json").is_file() or not out.is_dir():
        return
    if any(not is_passing(path) and path.name != BUNDLED_SHEET for path in out.iterdir()):
        raise UsageError(f"--out {out} is not empty and holds no run; name another folder")


def run_is_there(out: Path) -> UsageError:
    """A run that has come to something keeps its folder."""
    return UsageError(f"{out} already holds a run; add --resume to go on with it, or name another --out")
