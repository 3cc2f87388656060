"""A damaged metrics log stops no sound run: what is not sound is left out, counted and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, assert_same_run, last_checkpoint

from undiffuse.api.examining import _run
from undiffuse.api.reporting import _metrics_log
from undiffuse.cli.terminal import Terminal
from undiffuse.diagnostics.run_files import files as examine_files
from undiffuse.observer import observing
from undiffuse.training.metrics_log import MetricsLog, Rows, read_rows


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def half(run: Path) -> Path:
    """A run that can go on from its second checkpoint but last."""
    shutil.rmtree(last_checkpoint(run))
    return run


def spoil(run: Path, line: int, old: bytes, new: bytes) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new, 1)
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("old", "new"), [(b"loss", b"lo\xffs"), (b"{", b"["), (b"32", b"33"), (b'"train"', b'"trcin"')]
)
def test_a_bad_line_stops_no_resume(old: bytes, new: bytes, half: Path, trained: Path, undiffuse: CommandLine) -> None:
    spoil(half, 0, old, new)
    damaged = (half / "metrics.jsonl").read_bytes()
    message = undiffuse.fine("train", "--resume", "--out", half).err
    assert "1 line of metrics.jsonl cannot be read and is left out" in message and "between 0 and 64 images" in message
    assert (half / "damaged_metrics.jsonl").read_bytes() == damaged
    assert (half / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    kept, whole = read_rows(half), read_rows(trained)
    assert [row["images"] for row in kept.rows] == [row["images"] for row in whole.rows[1:]]
    assert kept.gaps == ((0, 64),) and whole.note == ""


def test_report_and_doctor_report_it_and_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(run, 2, b"loss", b"l\x80ss")
    found = read_rows(run)
    note = found.note
    assert note.startswith("1 line of metrics.jsonl")
    with observing(Terminal()):
        assert _metrics_log(run) == found.rows and len(found.rows) > 5
    assert note in " ".join(capsys.readouterr().err.split())
    subject = _run(str(run), None, (), None, 1, 0, "cpu")
    findings = {finding.title: finding.evidence for finding in examine_files(subject)}
    assert findings["the metrics log is damaged"] == note


def test_a_missing_row_is_reported(half: Path, undiffuse: CommandLine) -> None:
    path = half / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    assert "rows are missing between 32 and 96 images" in undiffuse.fine("train", "--resume", "--out", half).err


def test_metrics_logs_of_earlier_versions_are_intact(half: Path, trained: Path, undiffuse: CommandLine) -> None:
    path = half / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    plain = [{key: value for key, value in row.items() if key not in ("row", "crc32")} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in plain))
    assert read_rows(half).note == ""
    assert "metrics.jsonl" not in undiffuse.fine("train", "--resume", "--out", half).err
    assert read_rows(half).note == ""
    shutil.copy(trained / "metrics.jsonl", path)
    assert_same_run(half, trained)


def test_a_flipped_bit_is_noticed_or_changes_no_value(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for number in range(3):
        log.write("train", 32 * number, {"loss": 0.5 + number / 7, "step": number}, {"seconds": 1.25})
    log.close()
    path = tmp_path / "metrics.jsonl"
    content, valid = path.read_bytes(), read_rows(tmp_path).rows
    assert len(valid) == 3

    def values(found: Rows) -> list[dict[str, Any]]:
        return [{key: row.get(key) for key in valid[0] if key != "crc32"} for row in found.rows]

    expected, silent, noticed = values(Rows(valid)), [], 0
    for bit in range(0, 8 * len(content), 3):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = read_rows(tmp_path)
        noticed += bool(found.note)
        if not found.note and values(found) != expected:
            silent.append(bit)
    assert silent == [] and noticed > 7 * len(content) // 3
