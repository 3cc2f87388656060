"""``undiffuse evaluate``: every number stands next to the protocol that made it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine, change_config
from PIL import Image

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import train_run
from undiffuse.data.dataset import ArrayDataset
from undiffuse.evaluation import evenly_spaced_subset

QUICK = ("--steps", "2", "--bound-images", "4", "--num", "200")


def evaluated(undiffuse: CommandLine, model: Path, out: Path, *options: object) -> dict[str, Any]:
    undiffuse.fine("evaluate", model, "--out", out, *QUICK, *options)

    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record: dict[str, Any] = json.loads(out.read_text(), parse_constant=reject)
    return record


@pytest.fixture(scope="module")
def quick_chain(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a chain of 20 steps, so that its bound has 20 terms."""
    model = Path(shutil.copytree(trained, tmp_path_factory.mktemp("chain") / "model"))
    config = json.loads((model / "config.json").read_text())
    config["config"]["system"]["process"]["num_steps"] = 20
    change_config(model, config)
    return model


def test_default_metrics_and_their_protocols(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "evaluation.json", "--num", 400, "--seed", 5)
    results = {result["metric"]: result for result in record["results"]}
    names = {
        *("frechet_handwriting", "kernel_handwriting", "score_handwriting", "precision", "recall", "density"),
        *("coverage", "confident_share", "class_balance", "neighbour_ratio", "neighbour_ratio_features"),
        *("modes_found", "good_samples", "mode_kl"),
    }
    assert results.keys() == names | {"training_gap", "vlb", "vlb_prior", "vlb_terms", "vlb_decoder"}
    for result in results.values():
        assert {"metric", "value", "uncertainty", "unit", "better", "protocol", "details", "cached"} == result.keys()
        assert result["cached"] is False
        assert math.isfinite(result["value"]) and result["unit"] and result["protocol"]
    sampling = {"num": 400, "seed": 5, "sampler": "dpmpp_2m", "steps": 2, "grid": "log_snr", "weights": "ema"}
    assert sampling.items() <= record["sampling"].items()
    assert record["sampling"]["nfe"] >= 2 and record["sampling"]["classes"] == "in turn"
    for name in names:
        assert sampling.items() <= results[name]["protocol"]["samples"].items()
    frechet = results["frechet_handwriting"]["protocol"]
    fingerprint = json.loads((quick_chain / "config.json").read_text())["data"]["fingerprint"]
    assert frechet["data_fingerprint"] == fingerprint
    assert frechet["reference_images"] == 1596 and frechet["reference"] == "training images"
    assert results["frechet_handwriting"]["uncertainty"] > 0
    sha256 = hashlib.sha256((quick_chain / "model.safetensors").read_bytes()).hexdigest()
    assert record["model"]["weights_sha256"] == sha256
    for key in ("recipe", "created", "undiffuse", "hardware"):
        assert record[key]
    for result in results.values():
        stated = result["protocol"]
        assert stated["model"]["weights_sha256"] == sha256 and stated["model"]["weights"] == "ema"
        assert stated["model"]["ema"]["halflife_images"] > 0 and stated["hardware"]
        assert len(stated["software"]["source_sha256"]) == 64 and stated["software"]["undiffuse"]
    for name in ("frechet_handwriting", "kernel_handwriting", "score_handwriting", "recall", "confident_share"):
        assert len(results[name]["protocol"]["weights_sha256"]) == 64 and results[name]["protocol"]["resize"]
    assert results["score_handwriting"]["details"]["real_pictures"]["value"] > results["score_handwriting"]["value"]


def test_the_bound_and_its_parts(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", "--metrics", "vlb")
    values = {result["metric"]: result["value"] for result in record["results"]}
    assert values["vlb"] == pytest.approx(values["vlb_prior"] + values["vlb_terms"] + values["vlb_decoder"], rel=1e-6)
    stated = record["results"][0]["protocol"]
    assert {"images": 4, "split": "held out", "terms": 20, "variance": "beta"}.items() <= stated.items()
    assert {"t_1", "grid", "decoder", "labels", "precision", "data_fingerprint"} <= stated.keys()
    assert all(result["unit"] == "bits/dim" for result in record["results"])
    assert "sampling" not in record  # nothing was drawn


def test_likelihood_by_every_route(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    counts = ("--likelihood-images", 3, "--likelihood-probes", 2, "--bound-random-images", 50)
    names = "nll,vlb_random,continuous_bound"
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", "--metrics", names, *counts)
    results = {result["metric"]: result for result in record["results"]}
    parts = [
        f"{name}{part}" for name in ("vlb_random", "continuous_bound") for part in ("", "_prior", "_terms", "_decoder")
    ]
    assert list(results) == ["nll", *parts]
    assert all(result["unit"] == "bits/dim" and result["uncertainty"] is not None for result in results.values())
    ode, drawn, limit = (results[name]["protocol"] for name in names.split(","))
    message = {"images": 3, "split": "held out", "dequantisation": "uniform", "weights": "ema", "labels": "none"}
    assert message.items() <= ode.items() and "2 Rademacher" in ode["divergence"]
    assert {"solver", "rtol", "atol", "clean_log_snr", "clean_noise_std", "precision", "data_fingerprint"} <= ode.keys()
    assert ode["nfe"] > 6 and results["nll"]["details"]["variance_of_one_probe"] > 0
    assert drawn["images"] == 50 and drawn["terms"] == 20 and drawn["random_terms"].startswith("1 an image")
    assert limit["images"] == 4 and limit["clean_log_snr"] == ode["clean_log_snr"]
    assert results["nll"]["value"] < results["continuous_bound"]["value"] + 1


def test_the_random_terms_estimate_the_whole_sum(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    options = ("--metrics", "vlb,vlb_random", "--bound-images", 150, "--bound-random-images", 150)
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", *options)
    results = {result["metric"]: result for result in record["results"]}
    whole, drawn = results["vlb"], results["vlb_random"]
    assert abs(whole["value"] - drawn["value"]) < 5 * drawn["uncertainty"]
    assert results["vlb_prior"]["value"] == results["vlb_random_prior"]["value"]
    assert results["vlb_decoder"]["value"] == results["vlb_random_decoder"]["value"]


def test_metrics_by_name(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", "--metrics", "copying, classes")
    copying = ["neighbour_ratio", "neighbour_ratio_features", "training_gap"]
    assert [row["metric"] for row in record["results"]] == [*copying, "confident_share", "class_balance"]
    assert {row["details"].get("verdict") for row in record["results"][:2]} <= {  # data
        *("no sign of copying", "signs of copying", "likely copies")
    }
    assert (tmp_path / "out_neighbours.png").is_file()


def test_a_second_evaluation_takes_its_results_from_the_cache(
    quick_chain: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ("--metrics", "copying,classes", "--seed", 3, "--num", 40)
    first = evaluated(undiffuse, quick_chain, tmp_path / "a.json", *options)
    outcome = undiffuse.fine("evaluate", quick_chain, "--out", tmp_path / "b.json", *QUICK, *options)
    again = json.loads((tmp_path / "b.json").read_text())
    assert "5 of 5 numbers are from the cache" in outcome.out
    assert [row["cached"] for row in first["results"] + again["results"]] == [False] * 5 + [True] * 5
    assert [{**row, "cached": False} for row in again["results"]] == first["results"]
    assert again["sampling"].items() <= first["sampling"].items()
    assert (tmp_path / "a_neighbours.png").read_bytes() == (tmp_path / "b_neighbours.png").read_bytes()
    other = evaluated(undiffuse, quick_chain, tmp_path / "c.json", *options[:2], "--seed", 4, "--num", 40)
    anew = evaluated(undiffuse, quick_chain, tmp_path / "d.json", *options, "--no-cache")
    assert not any(row["cached"] for row in other["results"] + anew["results"])
    assert anew["results"] == first["results"] != other["results"]


def test_the_accuracy_of_a_classifier_that_learned_from_samples(
    quick_chain: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", "--metrics", "accuracy", "--num", 400)
    (row,) = record["results"]
    assert row["metric"] == "classification_accuracy" and 0 <= row["value"] < 0.6 < row["details"]["real_pictures"]
    assert row["protocol"]["trained_on"] == row["protocol"]["real_trained_on"] == 400


def test_the_accuracy_needs_classes(
    trained_bf16: Path, trained_points: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    out = ("--metrics", "accuracy", "--out", tmp_path / "x.json")
    assert "system.class_conditional=true" in undiffuse.rejected("evaluate", trained_bf16, *out)
    assert "points" in undiffuse.rejected("evaluate", trained_points, *out)


def test_the_batch_size_changes_no_number(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    options = ("--metrics", "copying,classes,kernel,frechet", "--no-cache")
    a = evaluated(undiffuse, quick_chain, tmp_path / "a.json", *options, "--batch-size", 37)
    b = evaluated(undiffuse, quick_chain, tmp_path / "b.json", *options)
    assert a["results"] == b["results"]


def test_samples_are_guided_where_requested(
    trained: Path, trained_bf16: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    options = ("--metrics", "kernel", "--features", "pixels", "--num", 30, "--steps", 2)
    plain = evaluated(undiffuse, trained, tmp_path / "plain.json", *options)["sampling"]
    guided = evaluated(undiffuse, trained, tmp_path / "guided.json", *options, "--guidance", 2)["sampling"]
    assert (guided["guidance"], guided["nfe"]) == (2, 2 * plain["nfe"])
    never = ("--guidance", 2, "--guidance-interval", "90,inf")
    unguided = evaluated(undiffuse, trained, tmp_path / "never.json", *options, *never)["sampling"]
    assert (unguided["guidance_interval"], unguided["nfe"]) == ("90,inf", plain["nfe"])
    line = undiffuse.rejected("evaluate", trained_bf16, *options, "--guidance", 2, "--out", tmp_path / "x.json")
    assert "needs a model trained with classes" in line


def test_samples_are_cooled_where_requested(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    options = ("--metrics", "kernel", "--features", "pixels", "--num", 30, "--steps", 2)
    plain = evaluated(undiffuse, quick_chain, tmp_path / "plain.json", *options)
    cool = evaluated(undiffuse, quick_chain, tmp_path / "cool.json", *options, "--temperature", 0.5)
    assert "temperature" not in plain["sampling"] and cool["sampling"]["temperature"] == 0.5
    assert plain["results"][0]["value"] != cool["results"][0]["value"]


def test_too_few_samples_reports_how_many(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    line = undiffuse.rejected("evaluate", quick_chain, "--metrics", "frechet", "--num", 20, "--out", tmp_path / "x")
    assert "20" in line and any(int(word) > 20 for word in line.replace(",", "").split() if word.isdigit())
    assert not (tmp_path / "x").exists()


def test_features_without_classes_or_weights_report_what_to_do(
    quick_chain: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path / "x.json")
    pixels = ("--features", "pixels", "--metrics", "inception_score")
    assert "handwriting" in undiffuse.rejected("evaluate", quick_chain, *pixels, *out)
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "UNDIFFUSE_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    line = undiffuse.rejected("evaluate", quick_chain, "--features", "inception", "--metrics", "frechet", *out)
    assert "inception-2015-12-05.pt" in line
    assert not (tmp_path / "x.json").exists()


def test_points(trained_points: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, trained_points, tmp_path / "out.json")
    (result,) = record["results"]
    assert result["metric"] == "sliced_wasserstein" and result["value"] > 0 and result["uncertainty"] > 0
    assert result["details"]["training_to_held_out"] < result["value"]
    assert result["protocol"]["directions"] == 128 and result["protocol"]["reference"] == "held-out points"
    assert "sliced_wasserstein" in undiffuse.rejected(
        "evaluate", trained_points, "--metrics", "vlb", "--out", tmp_path / "x"
    )
    assert "points" in undiffuse.rejected("evaluate", trained_points, "--metrics", "frechet", "--out", tmp_path / "x")


def test_likelihood_of_points(trained_points: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, trained_points, tmp_path / "out.json", "--metrics", "nll,continuous_bound")
    nll, bound = record["results"][:2]
    assert (nll["unit"], bound["unit"]) == ("nats", "nats")
    stated = {"divergence": "exact", "dequantisation": "none", "labels": "none"}
    assert stated.items() <= nll["protocol"].items()
    assert -2 < nll["value"] < bound["value"] + 4 * bound["uncertainty"]


def test_samples_under_another_process(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    options = ("--metrics", "classes", "--num", 20, "--process", "ve")
    record = evaluated(undiffuse, quick_chain, tmp_path / "out.json", *options)
    assert record["results"][0]["protocol"]["samples"]["process"] == "ve"


def test_the_default_file_is_in_the_run(quick_chain: Path, undiffuse: CommandLine) -> None:
    undiffuse.fine("evaluate", quick_chain, *QUICK, "--metrics", "vlb")
    assert (quick_chain / "evaluation.json").is_file()


def test_other_held_out_images(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    record = evaluated(undiffuse, quick_chain, tmp_path / "x.json", "--metrics", "vlb", "--data", "digits")
    config = json.loads((quick_chain / "config.json").read_text())
    assert record["results"][0]["protocol"]["data_fingerprint"] != config["data"]["fingerprint"]


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of colour images that lie sorted in two sub-folders, next to them as ``data``."""
    folder = tmp_path_factory.mktemp("colour")
    levels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    for number, level in enumerate(levels):
        path = folder / "data" / ("dark" if number < 20 else "light") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(level // 2 + 127 * (number >= 20)).save(path)
    network = ("channels=8", "multipliers=[1]", "num_blocks=1", "attention_levels=[]", "num_heads=1")
    sizes = ("data.size=8", "data.validation_fraction=0.3", "num_images=64", "batch_images=16", "micro_batch_images=16")
    overrides = [f"system.network.{option}" for option in network] + [*sizes, "preview_every_images=0"]
    overrides += ["system.precision=fp32", "system.process.num_steps=20"]  # as few terms of the bound
    config = configure("ddpm-church48", overrides, str(folder / "data"), None, False)
    assert train_run(config, folder / "run", device="cpu")
    return folder


COLOUR = ("--steps", "2", "--bound-images", "2", "--num", "30")


def test_colour_images_with_the_defaults(colour: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    outcome = undiffuse.fine("evaluate", colour / "run", *COLOUR, "--out", tmp_path / "x.json")
    assert "no Fréchet distance: on 192 pixels features it needs 193 samples" in outcome.err
    names = [row["metric"] for row in json.loads((tmp_path / "x.json").read_text())["results"]]
    comparison = ["kernel_pixels", "precision", "recall", "density", "coverage", "neighbour_ratio", "training_gap"]
    assert names == [*comparison, "vlb", "vlb_prior", "vlb_terms", "vlb_decoder"]
    assert "193" in undiffuse.rejected("evaluate", colour / "run", *COLOUR, "--metrics", "frechet")


def test_an_exported_model_without_its_training_data(colour: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    (model := tmp_path / "exported").mkdir()
    for name in ("config.json", "model.safetensors", "model_card.md"):
        shutil.copy(colour / "run" / name, model)
    config = json.loads((model / "config.json").read_text())
    config["config"]["data"]["path"] = str(tmp_path / "gone")
    change_config(model, config)
    undiffuse.fine("evaluate", model, *COLOUR, "--data", colour / "data", "--metrics", "copying")  # its own, moved
    shutil.copytree(colour / "data", tmp_path / "other")
    next(path for path in (tmp_path / "other").rglob("*.png")).unlink()
    other = ("--data", tmp_path / "other")
    undiffuse.fine("evaluate", model, *COLOUR, *other, "--metrics", "vlb")
    line = undiffuse.rejected("evaluate", model, *COLOUR, *other, "--metrics", "copying")
    assert "trained on" in line and "gone" in line and "--metrics" in line
    assert "gone" in undiffuse.rejected("evaluate", model, *COLOUR)
    assert "gone" in undiffuse.fine("report", model).err
    assert "There are no real items to show." in (model / "report.html").read_text()


def test_held_out_images_of_every_class_are_taken() -> None:
    dataset = ArrayDataset("sorted", np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1))
    assert evenly_spaced_subset(dataset, 4).flatten().tolist() == [0, 33, 66, 99]
    assert len(evenly_spaced_subset(dataset, 500)) == 100


def test_a_model_without_classes_lists_none(colour: Path, trained: Path) -> None:
    assert "| classes | none |" in (colour / "run" / "model_card.md").read_text()
    card = (trained / "model_card.md").read_text()
    assert "| classes | 0, 1, 2" in card and "undiffuse sample . -n" in card


def test_changed_data_is_rejected(quick_chain: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    model = Path(shutil.copytree(quick_chain, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config["data"]["fingerprint"] = "0" * 32
    change_config(model, config)
    assert "changed" in undiffuse.rejected("evaluate", model, "--out", tmp_path / "x.json")
