"""The run's journal: one JSON object a line in ``metrics.jsonl``, and TensorBoard's files on request.

What depends on the clock sits under the key ``wall``; all else is the same in a resumed run as in one that never
stopped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError
from undiffuse.files import explained, write_text


class Journal:
    """Appends rows; on resuming, rows beyond the checkpoint are dropped first.

    Args:
        folder: the run's.
        images: seen at the checkpoint the run resumes from, 0 for a new run.
        tensorboard: also write event files under ``folder/tensorboard``.
    """

    def __init__(self, folder: Path, images: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        rows = [row for row in read_journal(folder) if row["images"] <= images] if images else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self._kept = {(row["kind"], row["images"]) for row in rows}
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _board(folder / "tensorboard", images) if tensorboard else None

    def has(self, kind: str, images: int) -> bool:
        """Whether such a row was kept from before the run was resumed."""
        return (kind, images) in self._kept

    def write(self, kind: str, images: int, values: Mapping[str, Any], wall: Mapping[str, float]) -> None:
        """Append one row of numbers."""
        with explained(self.path):
            self._file.write(json.dumps({"kind": kind, "images": images, **values, "wall": dict(wall)}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in {**values, **wall}.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, images)

    def close(self) -> None:
        """Close the files; every row was flushed when it was written."""
        with contextlib.suppress(OSError):  # what a full disk refused was reported by ``write``
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """All whole rows of a run's journal; a line cut short by a crash is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _board(folder: Path, images: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("tensorboard=true needs the extra undiffuse[tensorboard]") from None
    return SummaryWriter(str(folder), purge_step=images + 1 if images else None)
