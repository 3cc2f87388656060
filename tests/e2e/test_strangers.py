"""A stranger's model, run or array file: one clear line, exit code 2, within bounded memory and time."""

from __future__ import annotations

import io
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine, last_checkpoint
from safetensors.torch import load_file, save_file

from undiffuse.api.configuration.overrides import read_value
from undiffuse.checksums import read_json, with_checksum
from undiffuse.data.readers.npy import Npz, map_npy
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.metrics import weight_files
from undiffuse.models.saved import load

Change = Callable[[dict[str, Any]], None]


def at(path: str, value: Any) -> Change:
    """Put a value at a dotted path of ``config.json``."""
    *sections, key = path.split(".")

    def change(record: dict[str, Any]) -> None:
        for section in sections:
            record = record[section]
        record[key] = value

    return change


NETWORK, SYSTEM = "config.system.network", "config.system"
HOSTILE: dict[str, Change] = {
    "wide": at(f"{NETWORK}.channels", 4096),
    "wider": at(f"{NETWORK}.channels", 10**9),
    "widest": at(f"{NETWORK}.channels", 10**400),
    "nested": at(f"{NETWORK}.num_blocks", 10**9),
    "many levels": at(f"{NETWORK}.multipliers", [1] * 100_000),
    "a wide level": at(f"{NETWORK}.multipliers", [1, 10**12]),
    "a number with an exponent": at(f"{NETWORK}.channels", 1e9),
    "a wide embedding": at(f"{NETWORK}.embedding_channels", 10**8),
    "negative channels": at(f"{NETWORK}.channels", -8),
    "no channels": at(f"{NETWORK}.channels", float("nan")),
    "a list for a number": at(f"{NETWORK}.channels", [8] * 100_000),
    "long chain": at(f"{SYSTEM}.process.num_steps", 10**12),
    "no network": at(NETWORK, None),
    "network is a text": at(NETWORK, "unet" * 10_000),
    "system is a list": at(SYSTEM, [1, 2]),
    "another system": at(f"{SYSTEM}.name", "gan\0"),
    "shape of texts": at("model.shape", ["1", "8", "8"]),
    "shape is a text": at("model.shape", "188"),
    "shape is a number": at("model.shape", 3),
    "shape of truths": at("model.shape", [True, 8, 8]),
    "shape of floats": at("model.shape", [1.0, 8.5, 8]),
    "negative shape": at("model.shape", [1, -8, 8]),
    "empty shape": at("model.shape", []),
    "vast shape": at("model.shape", [3, 10**6, 10**6]),
    "huge shape": at("model.shape", [1, 10**400, 8]),
    "channels of the shape": at("model.shape", [100_000, 8, 8]),
    "classes are numbers": at("model.class_names", [1, 2, 3]),
    "classes are a text": at("model.class_names", "abc"),
    "many classes": at("model.class_names", ["x"] * 500_000),
    "many labels": at("model.augment_labels", ["x"] * 500_000),
    "labels are nothing": at("model.augment_labels", None),
    "model is a list": at("model", []),
    "data is a text": at("data", "digits"),
    "no fingerprint": at("data.fingerprint", None),
    "config is a number": at("config", 1),
    "format is a truth": at("format_version", [1]),
}


@pytest.fixture(scope="module")
def given(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights keep no copy of their configuration, as a stranger may write it."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("given") / "model"))
    for name in ("model.safetensors", "raw.safetensors"):
        save_file(load_file(folder / name), folder / name)
    return folder


@pytest.fixture
def record(trained: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(trained / "config.json")
    return found


def put(folder: Path, record: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(with_checksum(record)))


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_configuration_is_one_line(what: str, given: Path, record: dict[str, Any]) -> None:
    HOSTILE[what](record)
    put(given, record)
    before, started = peak_bytes(), time.process_time()
    with pytest.raises(UsageError) as rejected:
        load(given)
    assert peak_bytes() - before < 200 * 2**20 and time.process_time() - started < 5
    assert str(given / "config.json") in str(rejected.value), rejected.value
    assert len(str(rejected.value)) < 700 and str(rejected.value).isprintable(), rejected.value


TEXTS = {
    "nested": b"[" * 100_000,
    "nested and closed": b"[" * 5000 + b"]" * 5000,
    "nested inside": b'{"format_version": 1, "model": {}, "data": {}, "config": ' + b'{"a": ' * 500 + b"1" + b"}" * 501,
    "a long number": b'{"format_version": ' + b"9" * 10_000 + b"}",
    "null bytes": b'{"format_version"\x00: 1}',
    "not UTF-8": b'{"format_version": "\xff"}',
    "half a character": b'{"format_version": 1, "model": {}, "data": {}, "config": {"recipe": "\\ud800"}}',
    "a list": b"[1, 2]",
    "a number": b"1e999",
    "nothing": b"null",
    "too large": b" " * (65 * 2**20) + b"{}",
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_hostile_text_is_one_line(what: str, given: Path, undiffuse: CommandLine) -> None:
    (given / "config.json").write_bytes(TEXTS[what])
    assert "config.json" in undiffuse.rejected("sample", given)


def test_a_run_is_not_built_larger_than_its_checkpoint(trained: Path, tmp_path: Path, undiffuse: CommandLine) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    record = read_json(run / "config.json")
    record["config"]["system"]["network"]["channels"] = 4096
    put(run, record)
    before = peak_bytes()
    assert "larger than its weights" in undiffuse.rejected("train", "--resume", "--out", run)
    assert peak_bytes() - before < 200 * 2**20


def test_a_checkpoint_of_another_run_is_one_line(trained: Path, tmp_path: Path, undiffuse: CommandLine) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    newest = last_checkpoint(run)
    tensors = load_file(newest / "state.safetensors")
    name = next(key for key in tensors if key.startswith("model."))
    for spoilt in ({**tensors, name: tensors[name].new_zeros(3)}, {"x": tensors[name]}, {"model.x.y": tensors[name]}):
        save_file(spoilt, newest / "state.safetensors")
        state = read_json(newest / "state.json")
        state["sha256"]["state.safetensors"] = sha256_of(newest / "state.safetensors")
        (newest / "state.json").write_text(json.dumps(with_checksum(state)))
        line = undiffuse.rejected("train", "--resume", "--out", run)
        assert "does not fit this run" in line or "larger than its weights" in line
    spoilt_counters = {**state, "counters": {**state["counters"], "window": None}}
    (newest / "state.json").write_text(json.dumps(with_checksum(spoilt_counters)))
    assert "does not fit this run" in undiffuse.rejected("train", "--resume", "--out", run)
    (newest / "state.json").write_text(json.dumps(with_checksum({**state, "counters": [1]})))
    assert "damaged" in undiffuse.fine("train", "--resume", "--out", run).err


def npy(header: str) -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 1000000), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -8), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': ('a', 8), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 8.5), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }",
    "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (8,), }",
    "{'descr': 3, 'fortran_order': 7, 'shape': 8, }",
    "(" * 5000 + ")" * 5000,
    "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 200 + "8" + ",)" * 200 + ", }",
    "{" * 90 + "}" * 90,
    "\0" * 100,
    "",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_hostile_header_of_an_array_is_one_line(header: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy(header))
    with pytest.raises(UsageError):
        map_npy(path)
    archive = io.BytesIO()
    np.savez(archive, good=np.zeros(3))
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.npz", "w") as zipped:
        zipped.writestr("x.npy", npy(header))
    with pytest.raises(UsageError):
        Npz(tmp_path / "x.npz").read("x")


def test_a_weight_file_of_another_size_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "alex.pth"
    with path.open("wb") as file:
        file.truncate(64 * 2**30)  # of holes
    before = peak_bytes()
    with pytest.raises(UsageError, match="SHA-256"):
        weight_files.read_weights("lpips-heads", path)
    assert peak_bytes() - before < 200 * 2**20


def test_a_deep_value_on_the_command_line_is_a_text() -> None:
    nested = "[" * 100_000
    assert read_value(nested) == nested
