"""The metrics log of a run: one JSON object per line in ``metrics.jsonl``, and optionally TensorBoard event files.

Values that depend on the clock are under the key ``wall``; apart from these and ``crc32``, the checksum of a row, the
log of a resumed run is identical to that of an uninterrupted one. Rows are numbered, so that missing rows are detected.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.checksums import parse_json
from undiffuse.errors import UsageError
from undiffuse.files import replacing, translate_os_errors, write_text

_CHECKSUM, _NUMBER = "crc32", "row"
_NAME, _DAMAGED = "metrics.jsonl", "damaged_metrics.jsonl"


class Rows(NamedTuple):
    """Content of a metrics log.

    Attributes:
        rows: the valid rows, in order.
        unreadable: number of lines that are invalid, truncated or modified.
        gaps: (images before, images after) of each place where rows are missing; 0 before the first row.
    """

    rows: list[dict[str, Any]]
    unreadable: int = 0
    gaps: tuple[tuple[int, int], ...] = ()

    @property
    def note(self) -> str:
        """Description of unreadable lines and gaps; "" if there are none."""
        notes = []
        if self.unreadable:
            lines = "1 line" if self.unreadable == 1 else f"{self.unreadable} lines"
            notes.append(f"{lines} of {_NAME} cannot be read and {'is' if self.unreadable == 1 else 'are'} left out")
        if self.gaps:
            where = ", ".join(f"{before:,} and {after:,}" for before, after in self.gaps[:3])
            notes.append(f"rows are missing between {where}{' and elsewhere' if self.gaps[3:] else ''} images")
        return "; ".join(notes)


class MetricsLog:
    """Appends rows; on resuming, rows beyond the checkpoint are dropped first.

    Args:
        folder: folder of the run.
        images: number of images seen at the checkpoint that the run resumes from; 0 for a new run.
        tensorboard: also write event files to ``folder/tensorboard``.
    """

    def __init__(self, folder: Path, images: int = 0, tensorboard: bool = False) -> None:
        check_tensorboard(tensorboard)
        self.path = folder / _NAME
        found = read_rows(folder) if images else Rows([])
        rows = [row for row in found.rows if row["images"] <= images]
        if found.unreadable:
            with replacing(folder / _DAMAGED) as temporary:
                temporary.write_bytes(self.path.read_bytes())
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self.note = found._replace(gaps=tuple(gap for gap in found.gaps if gap[1] <= images)).note
        self._resumed_rows = {(row["kind"], row["images"]) for row in rows}
        self._next = rows[-1].get(_NUMBER, len(rows) - 1) + 1 if rows else 0
        self._file = self.path.open("a", encoding="utf-8")
        self._tensorboard = _tensorboard(folder / "tensorboard", images) if tensorboard else None

    def has(self, kind: str, images: int) -> bool:
        """Whether the log had such a row when the run was resumed."""
        return (kind, images) in self._resumed_rows

    def write(self, kind: str, images: int, values: Mapping[str, Any], wall: Mapping[str, float]) -> None:
        """Append one row."""
        row = json.loads(
            json.dumps({"kind": kind, "images": images, _NUMBER: self._next, **values, "wall": dict(wall)})
        )
        with translate_os_errors(self.path):
            self._file.write(json.dumps({**row, _CHECKSUM: _checksum(row)}) + "\n")
            self._file.flush()
        self._next += 1
        if self._tensorboard is not None:
            for name, value in {**values, **wall}.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, images)

    def close(self) -> None:
        """Close the files; rows are flushed as they are written."""
        with contextlib.suppress(OSError):  # errors such as a full disk were reported by ``write``
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All valid rows of a run's metrics log."""
    return read_rows(folder).rows


def read_rows(folder: Path) -> Rows:
    """Read a run's metrics log; invalid lines are counted and left out."""
    path = folder / _NAME
    if not path.is_file():
        return Rows([])
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    rows = [row for line in lines if (row := _row(line)) is not None]
    return Rows(rows, len(lines) - len(rows), _gaps(rows))


def _row(line: bytes) -> dict[str, Any] | None:
    """Parse a row; None if it is invalid or was modified. Rows of earlier versions have no number and no checksum."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str) or not _is_count(row.get("images")):
        return None
    valid = row.get(_CHECKSUM, check := _checksum(row)) == check and _is_count(row.get(_NUMBER, 0))
    return row if valid else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checksum(row: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in row.items() if key != _CHECKSUM}
    return f"{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"


def _gaps(rows: list[dict[str, Any]]) -> tuple[tuple[int, int], ...]:
    """Gaps in the numbering of rows."""
    found, before, expected = [], 0, 0
    for position, row in enumerate(rows):
        number = row.get(_NUMBER, position)
        if number != expected:
            found.append((before, row["images"]))
        before, expected = row["images"], number + 1
    return tuple(found)


def check_tensorboard(requested: bool) -> None:
    """Check before training that the metrics log can be written.

    Raises:
        UsageError: if TensorBoard files are requested and TensorBoard is not installed.
    """
    if not requested:
        return
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UsageError(
            "tensorboard=true needs the extra undiffuse[tensorboard]; install it, or set tensorboard=false"
        ) from None


def _tensorboard(folder: Path, images: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=images + 1 if images else None)
