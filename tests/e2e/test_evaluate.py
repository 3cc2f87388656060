"""``undiffuse evaluate``: every number stands beside the protocol that made it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine

QUICK = ("--steps", "2", "--bound-images", "4", "--num", "200")


def evaluated(undiffuse: CommandLine, model: Path, out: Path, *options: object) -> dict[str, Any]:
    undiffuse.fine("evaluate", model, "--out", out, *QUICK, *options)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record: dict[str, Any] = json.loads(out.read_text(), parse_constant=refuse)
    return record


@pytest.fixture(scope="module")
def quick_chain(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a chain of 20 steps, so that its bound has 20 terms."""
    model = Path(shutil.copytree(trained, tmp_path_factory.mktemp("chain") / "model"))
    config = json.loads((model / "config.json").read_text())
    config["config"]["system"]["process"]["num_steps"] = 20
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_default_metrics_and_their_protocols(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "evaluation.json", "--num", 1000, "--seed", 5)
    results = {result["metric"]: result for result in record["results"]}
    names = {"frechet_handwriting", "confident_share", "class_balance", "neighbour_ratio"}
    assert results.keys() == names | {"vlb", "vlb_prior", "vlb_terms", "vlb_decoder"}
    for result in results.values():
        assert {"metric", "value", "uncertainty", "unit", "better", "protocol", "details"} == result.keys()
        assert math.isfinite(result["value"]) and result["unit"] and result["protocol"]
    sampling = {"num": 1000, "seed": 5, "sampler": "dpmpp_2m", "steps": 2, "grid": "log_snr", "weights": "ema"}
    assert sampling.items() <= record["sampling"].items()
    assert record["sampling"]["nfe"] >= 2 and record["sampling"]["classes"] == "in turn"
    for name in names:
        assert sampling.items() <= results[name]["protocol"]["samples"].items()
    frechet = results["frechet_handwriting"]["protocol"]
    fingerprint = json.loads((quick_chain / "config.json").read_text())["data"]["fingerprint"]
    assert frechet["data_fingerprint"] == fingerprint
    assert frechet["reference_images"] == 1596 and frechet["reference"] == "training pictures"
    assert results["frechet_handwriting"]["uncertainty"] > 0
    sha256 = hashlib.sha256((quick_chain / "model.safetensors").read_bytes()).hexdigest()
    assert record["model"]["weights_sha256"] == sha256
    for key in ("recipe", "created", "undiffuse", "hardware"):
        assert record[key]


def test_the_bound_and_its_parts(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", "--metrics", "vlb")
    values = {result["metric"]: result["value"] for result in record["results"]}
    assert values["vlb"] == pytest.approx(values["vlb_prior"] + values["vlb_terms"] + values["vlb_decoder"], rel=1e-6)
    stated = record["results"][0]["protocol"]
    assert {"images": 4, "split": "held out", "terms": 20, "variance": "beta"}.items() <= stated.items()
    assert {"t_1", "grid", "decoder", "labels", "precision", "data_fingerprint"} <= stated.keys()
    assert all(result["unit"] == "bits/dim" for result in record["results"])


def test_metrics_by_name(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", "--metrics", "copying, classes")
    assert [row["metric"] for row in record["results"]] == ["neighbour_ratio", "confident_share", "class_balance"]


def test_the_batch_size_changes_no_number(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    options = ("--metrics", "copying,classes")
    a = evaluated(undiffuse, quick_chain, tmp_path / "a.json", *options, "--batch-size", 37)
    b = evaluated(undiffuse, quick_chain, tmp_path / "b.json", *options)
    assert a["results"] == b["results"]


def test_too_few_samples_says_how_many(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    line = undiffuse.refused("evaluate", quick_chain, "--metrics", "frechet", "--num", 20, "--out", tmp_path / "x")
    assert "20" in line and any(int(word) > 20 for word in line.replace(",", "").split() if word.isdigit())
    assert not (tmp_path / "x").exists()


def test_points(trained_points: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, trained_points, tmp_path / "out.json")
    assert [row["metric"] for row in record["results"]] == ["vlb", "vlb_prior", "vlb_terms", "vlb_decoder"]
    assert "points" in undiffuse.refused("evaluate", trained_points, "--metrics", "frechet", "--out", tmp_path / "x")


def test_the_default_file_is_in_the_run(quick_chain: Path, undiffuse: CommandLine) -> None:
    undiffuse.fine("evaluate", quick_chain, *QUICK, "--metrics", "vlb")
    assert (quick_chain / "evaluation.json").is_file()


def test_other_held_out_pictures(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "x.json", "--metrics", "vlb", "--data", "digits")
    config = json.loads((quick_chain / "config.json").read_text())
    assert record["results"][0]["protocol"]["data_fingerprint"] != config["data"]["fingerprint"]


def test_changed_data_is_refused(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    model = Path(shutil.copytree(quick_chain, tmp_path / "model"))
    text = (model / "config.json").read_text()
    fingerprint = json.loads(text)["data"]["fingerprint"]
    (model / "config.json").write_text(text.replace(fingerprint, "0" * 32))
    assert "changed" in undiffuse.refused("evaluate", model, "--out", tmp_path / "x.json")
