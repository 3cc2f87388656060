"""A configuration that was changed after it was written is refused by name, wherever it is read, until it is meant."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import CommandLine

import undiffuse as package
from undiffuse.api.examining import _run
from undiffuse.api.reporting import _json
from undiffuse.checksums import checksum_of, is_modified, read_json, with_checksum
from undiffuse.diagnostics.run_files import files as examine_files
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of, write_json
from undiffuse.models import saved
from undiffuse.models.files import weights
from undiffuse.models.files.record import result_record
from undiffuse.zoo import bundled_models
from undiffuse.zoo.card import bundled


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that may be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edit(folder: Path, old: str, new: str) -> None:
    """As an editor does, or a bit that flips on the disk."""
    path = folder / "config.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def config_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return record


EDITS = {
    "beta_start": (
        '"beta_start": 0.0001',
        '"beta_start": 0.0003',
        "config.system.process.beta_start: 0.0001 -> 0.0003",
    ),
    "temperature": ('"temperature": 1.0', '"temperature": 1.2', "config.system.sampling.temperature: 1.0 -> 1.2"),
    "learning_rate": ('"learning_rate": 0.', '"learning_rate": 2.', "config.optimizer.learning_rate: 0."),
    "a key": ('"seed": 0', '"sded": 0', "config.seed: 0 -> None"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_changed_value_is_named(what: str, run: Path) -> None:
    old, new, named = EDITS[what]
    edit(run, old, new)
    with pytest.raises(UsageError, match=re.escape(named)):
        package.load(run)


def test_all_that_read_it_reject_it(run: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    old, new, named = EDITS["beta_start"]
    edit(run, old, new)
    commands = [
        ("sample", run, "--out", tmp_path / "out"),
        ("evaluate", run, "--out", tmp_path / "out.json"),
        ("export", run, "--out", tmp_path / "out"),
        ("report", run, "--out", tmp_path / "out.html"),
        ("train", "--resume", "--out", run),
        ("invert", run, "digits", "--out", tmp_path / "out"),
    ]
    for command in commands:
        line = undiffuse.rejected(*command)
        assert named in line and f"undiffuse seal --restore {run}" in line, line
    assert not list(tmp_path.glob("out*"))


def test_the_doctor_has_it_among_its_findings(run: Path) -> None:
    old, new, named = EDITS["beta_start"]
    edit(run, old, new)
    subject = _run(str(run), None, (), None, 1, 0, "cpu")
    findings = {finding.title: finding.evidence for finding in examine_files(subject)}
    assert named in findings["config.json is invalid"]


def test_both_remedies_of_the_message_do_what_it_reports(run: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    before = package.load(run, "cpu").sample(2, steps=2)
    written, weights = (run / "config.json").read_text(), (run / "model.safetensors").read_bytes()
    edit(run, '"temperature": 1.0', '"temperature": 1.2')
    line = undiffuse.rejected("sample", run, "--out", tmp_path / "out")
    back, meant = (shlex.split(found)[1:] for found in re.findall(r"(undiffuse seal[^,]*)", line))
    undiffuse.fine(*back)
    assert config_of(run) == json.loads(written)
    edit(run, '"temperature": 1.0', '"temperature": 1.2')
    undiffuse.fine(*meant)
    assert (run / "model.safetensors").read_bytes() == weights
    assert not torch.equal(package.load(run, "cpu").sample(2, steps=2), before)
    assert "temperature: 1.0 -> 1.2" in undiffuse.fine("train", "--resume", "--out", run).err
    edit(run, '"temperature": 1.2', '"temperature": 1.1')  # accepted once is not accepted for ever
    assert "temperature: 1.2 -> 1.1" in undiffuse.rejected("sample", run, "--out", tmp_path / "out")


def test_what_was_not_edited_is_left_as_it_is_and_that_is_reported(run: Path, undiffuse: CommandLine) -> None:
    written = (run / "config.json").read_bytes()
    for words in (("seal", run), ("seal", "--restore", run)):
        assert "nothing to do" in undiffuse.fine(*words).out
    assert (run / "config.json").read_bytes() == written
    edit(run, '"temperature": 1.0', '"temperature": 1.2')
    assert "accepted" in undiffuse.fine("seal", run).out
    accepted = (run / "config.json").read_bytes()
    assert "nothing to do" in undiffuse.fine("seal", run).out  # accepted already
    assert (run / "config.json").read_bytes() == accepted
    assert "put back" in undiffuse.fine("seal", "--restore", run).out
    assert config_of(run) == json.loads(written)


def test_a_intact_configuration_of_another_run_is_rejected(run: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = config_of(run)
    record["config"]["system"]["sampling"]["temperature"] = 1.2
    (run / "config.json").write_text(json.dumps(with_checksum(record)))
    line = undiffuse.rejected("sample", run, "--out", tmp_path / "out")
    assert "after model.safetensors was saved" in line and "temperature: 1.0 -> 1.2" in line
    for name in ("model.safetensors", "raw.safetensors"):
        (run / name).unlink()
    line = undiffuse.rejected("train", "--resume", "--out", run)
    assert "after the checkpoint at 256 images was saved" in line and "temperature: 1.0 -> 1.2" in line
    undiffuse.fine("seal", run)
    undiffuse.fine("train", "--resume", "--out", run)


def test_a_configuration_that_cannot_be_read_comes_back(run: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    written = (run / "config.json").read_text()
    for damaged in ("{", written.replace('"data"', '"dato"', 1), ""):
        (run / "config.json").write_text(damaged)
        line = undiffuse.rejected("sample", run, "--out", tmp_path / "out")
        assert f"undiffuse seal --restore {run}" in line
        undiffuse.fine("seal", "--restore", run)
        restored, original = config_of(run), json.loads(written)
        assert result_record(restored) == result_record(original)
    package.load(run)


def test_white_space_and_order_are_no_change(run: Path) -> None:
    record = config_of(run)
    (run / "config.json").write_text(json.dumps(dict(reversed(record.items())), indent=7))
    package.load(run)


def test_where_data_lie_is_no_part_of_the_weights(run: Path) -> None:
    record = config_of(run)
    moved = {**record["config"], "data": {**record["config"]["data"], "path": "/elsewhere"}, "loader": {"workers": 9}}
    tensors = weights.read_weights(run / "model.safetensors")
    hashes = [
        weights.save_weights(run / "w.safetensors", tensors, {**record, "config": config})
        for config in (moved, {**moved, "data": {**moved["data"], "path": "/there"}, "loader": {"workers": 0}})
    ]
    assert hashes[0] == hashes[1]
    assert b"elsewhere" not in (run / "w.safetensors").read_bytes()


def test_folders_of_earlier_versions_open(run: Path, undiffuse: CommandLine) -> None:
    """Without a checksum in ``config.json``, without a copy in the weights and in the checkpoint."""
    record = config_of(run)
    del record["checksum"]
    (run / "config.json").write_text(json.dumps(record))
    for name in ("model.safetensors", "raw.safetensors"):
        weights.save_weights(run / name, weights.read_weights(run / name))
    for state in run.glob("checkpoints/*/state.json"):
        plain = {key: value for key, value in read_json(state).items() if not key.startswith("config")}
        state.write_text(json.dumps(with_checksum(plain)))
    before = package.load(run, "cpu").sample(1, steps=1)
    undiffuse.fine("train", "--resume", "--out", run)
    assert torch.equal(package.load(run, "cpu").sample(1, steps=1), before)
    edit(run, '"temperature": 1.0', '"temperature": 1.2')  # the weights that were saved just now know better
    assert "temperature: 1.0 -> 1.2" in undiffuse.rejected("sample", run, "--out", run / "out")
    undiffuse.fine("seal", run)


@pytest.mark.parametrize("make", [("export", "--temperature", "0.9"), ("export", "--bf16")])
def test_what_our_own_tools_change_is_sealed(
    make: tuple[str, ...], run: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    undiffuse.fine(make[0], run, *make[1:], "--out", tmp_path / "exported")
    assert not is_modified(config_of(tmp_path / "exported"))
    undiffuse.fine("sample", tmp_path / "exported", "-n", 1, "--steps", 1, "--out", tmp_path / "s")
    edit(tmp_path / "exported", '"seed": 0', '"seed": 1')
    assert "config.seed: 0 -> 1" in undiffuse.rejected("sample", tmp_path / "exported", "--out", tmp_path / "t")


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled_models()["mnist"], tmp_path / "mnist"))


def test_bundled_models_are_sealed_and_their_weights_named() -> None:
    for name, folder in bundled_models().items():
        record = config_of(folder)
        assert record["checksum"] == checksum_of(record), name
        assert record["card"]["weights_sha256"] == sha256_of(folder / "model.safetensors"), name


def test_any_changed_digit_of_a_bundled_configuration_is_rejected(
    mnist: Path, monkeypatch: pytest.MonkeyPatch, undiffuse: CommandLine, tmp_path: Path
) -> None:
    """Of all digits of its ``config.json``, its card's numbers included, 60 drawn by a seed."""
    text = (mnist / "config.json").read_text()
    places = [place for place, letter in enumerate(text) if letter.isdigit()]
    for place in random.Random(0).sample(places, 60):
        other = str((int(text[place]) + 3) % 10)
        changed = text[:place] + other + text[place + 1 :]
        (mnist / "config.json").write_text(changed)
        if json.loads(changed) == json.loads(text):  # beyond a float's last digit
            continue
        with pytest.raises(UsageError, match=r"config\.json"):
            saved.read_config(mnist)
    monkeypatch.setattr("undiffuse.zoo.bundled_models", lambda: {"mnist": mnist})
    with pytest.raises(UsageError, match="reinstall"):
        bundled("mnist")
    line = undiffuse.rejected("sample", mnist, "--out", tmp_path / "out")
    assert "restore an intact copy" in line and f"undiffuse seal {mnist}" in line


def test_other_weights_in_a_bundled_model_are_rejected(mnist: Path) -> None:
    path = mnist / "model.safetensors"
    tensors = weights.read_weights(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    weights.save_weights(path, tensors)
    with pytest.raises(UsageError, match=r"its config\.json states"):
        package.load(mnist)


def test_a_changed_number_of_a_result_is_not_shown(tmp_path: Path) -> None:
    path, result = (
        tmp_path / "evaluation.json",
        {"results": [{"metric": "frechet", "value": 0.31, "of": {2: 1, 10: 2}}]},
    )
    write_json(path, with_checksum(result))
    assert _json(path)["results"][0]["value"] == 0.31
    path.write_text(path.read_text().replace("0.31", "0.91"))
    with pytest.raises(UsageError, match=r"evaluation\.json was changed after it was written"):
        _json(path)
    path.write_text(json.dumps(result))  # of an earlier version
    assert _json(path)["results"][0]["value"] == 0.31
