"""What a result depends on besides the data: version, commit, source code and hardware."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from undiffuse.compute.threaded_batch import has_fused_norm
from undiffuse.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def software() -> dict[str, Any]:
    """Version, hash of the source and, if the package runs from a git checkout, the commit."""
    found = commit(PACKAGE)
    return {
        "undiffuse": __version__,
        **({"commit": found} if found is not None else {}),
        "source_sha256": source_sha256(),
        "torch": torch.__version__,
    }


def hardware() -> str:
    """The hardware as a short text, and whether CPU networks use this package's norms, which round differently."""
    on_gpu = torch.cuda.is_available()
    gpu = f", {torch.cuda.get_device_name()}" if on_gpu else ""
    norms = ", own norms" if not on_gpu and has_fused_norm() else ""
    threads = f"{torch.get_num_threads()} threads{norms}"
    return f"{platform.machine()}, {threads}{gpu}, torch {torch.__version__}, Python {platform.python_version()}"


def averaging(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's averaged weights, from its ``config.json``; empty if it has none."""
    return dict(config.get("config", {}).get("ema") or {})


def source_sha256() -> str:
    """SHA-256 of the package's modules when they were loaded, so that results of older code are never reused.

    A file that is edited during an evaluation does not change it.
    """
    return _LOADED


def modules_sha256(package: Path) -> str:
    """SHA-256 over the names and contents of a package's Python and C++ files on disk."""
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("*.py", "*.cpp") for path in package.rglob(kind)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


_LOADED = modules_sha256(PACKAGE)


def commit(package: Path) -> str | None:
    """The commit if ``package`` is ``src/NAME`` of a git checkout, else ``None``; does not run git.

    An installed package inside another checkout (in a virtual environment) is not part of that checkout.
    """
    if package.parent.name != "src":
        return None
    try:
        folder = _git_folder(package.parents[1] / ".git")
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        found = _commit_of(folder, head.removeprefix("ref:").strip()) if head.startswith("ref:") else head
    except (OSError, UnicodeDecodeError):
        return None
    return found if found is not None and _COMMIT.fullmatch(found) else None


def _git_folder(path: Path) -> Path:
    """``.git``, or the folder that it refers to if it is a file, as in a worktree."""
    if path.is_file():
        return path.parent / path.read_text(encoding="utf-8").strip().removeprefix("gitdir:").strip()
    return path


def _commit_of(folder: Path, reference: str) -> str | None:
    """The commit of a branch from its file or from a line of ``packed-refs``, here or in the main checkout."""
    shared = folder / "commondir"
    common = folder / shared.read_text(encoding="utf-8").strip() if shared.is_file() else folder
    for place in (folder, common):
        if (place / reference).is_file():
            return (place / reference).read_text(encoding="utf-8").strip()
    packed = common / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {reference}")), None)
