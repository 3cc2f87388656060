"""``undiffuse export`` and guided sampling from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import TINY, CommandLine, no_leftovers
from PIL import Image
from safetensors.torch import load_file

import undiffuse as package
from undiffuse.api.exporting import export
from undiffuse.cli.main import main
from undiffuse.errors import UsageError
from undiffuse.models.base import DenoisingModel
from undiffuse.models.files import int8
from undiffuse.samplers import tuned_grids
from undiffuse.samplers.tuned_grids import Trial

FILES = ["config.json", "model.safetensors", "model_card.md"]
TUNED = ("--tune-steps", 3, "--seeds", 4)


@pytest.fixture(scope="module", autouse=True)
def quick_tuning() -> Iterator[None]:
    """A coarser solution to tune towards and fewer rounds; how good the found grid is, ``tests/oracle`` measures."""
    solved = tuned_grids.Trial.solved
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned_grids.Trial, "solved", lambda trial: solved(trial, 12))
        patch.setattr(tuned_grids, "_MAX_ITERATIONS", 2)
        yield


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a tuned grid; not to be changed."""
    out = tmp_path_factory.mktemp("exported") / "out"
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, ("export", trained, "--out", out, *TUNED))))
    assert not stop.value.code
    return out


def images_in(folder: Path) -> dict[str, bytes]:
    """Pixels by file name; the files also contain their records."""
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("0*.png"))}


def sampling_of(folder: Path) -> dict[str, object]:
    sampling: dict[str, object] = json.loads((folder / "config.json").read_text())["config"]["system"]["sampling"]
    return sampling


def test_an_exported_model_is_the_model(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    undiffuse.fine("export", trained, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert sampling_of(tmp_path / "out") == sampling_of(trained)
    for model, name in ((trained, "a"), (tmp_path / "out", "b")):
        undiffuse.fine("sample", model, "-n", 3, "--steps", 3, "--out", tmp_path / name)
    assert images_in(tmp_path / "a") == images_in(tmp_path / "b")
    assert "no raw.safetensors" in undiffuse.rejected("sample", tmp_path / "out", "--weights", "raw")


def test_the_tuned_grid_is_the_default_and_can_be_requested_of_the_run(
    trained: Path, exported: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    out = exported
    sampling, tuning = sampling_of(out), json.loads((out / "config.json").read_text())["tuning"]
    assert (sampling["sampler"], sampling["num_steps"]) == ("unipc", 3)
    assert sampling["grid"] == tuning["grid"]
    undiffuse.fine("sample", out, "-n", 4, "--out", tmp_path / "tuned")
    undiffuse.fine(
        *("sample", trained, "-n", 4, "--sampler", "unipc", "--steps", 3, "--grid", sampling["grid"]),
        *("--out", tmp_path / "run"),
    )
    assert images_in(tmp_path / "tuned") == images_in(tmp_path / "run")
    record = json.loads((tmp_path / "tuned" / "samples.json").read_text())
    assert (record["grid"], record["nfe"]) == (sampling["grid"], 3)
    card = (out / "model_card.md").read_text()
    assert f"| tuned | {tuning['rms_error_of_tuned_grid']:.4f} |" in card
    assert tuning["rms_error"] == min(tuning["rms_error_of_tuned_grid"], *tuning["rms_error_of_named_grids"].values())
    assert all(
        f"| {name}, as named | {error:.4f} |" in card for name, error in tuning["rms_error_of_named_grids"].items()
    )
    undiffuse.fine("sample", out, "-n", 2, "--steps", 5, "--out", tmp_path / "five")  # other steps stay on its line
    undiffuse.fine("export", out, "--out", tmp_path / "again")
    assert (tmp_path / "again" / "model_card.md").read_text().count("## Sampling") == 1


def test_the_fewest_steps_within_tolerance_are_taken(
    trained: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial.solved, "__defaults__", (12,))  # and not 96: which of the two is closer is not asked
    common = ("export", trained, "--tune-steps", "2,4", "--seeds", 3, "--out")
    undiffuse.fine(*common, tmp_path / "loose", "--tolerance", 100)
    assert sampling_of(tmp_path / "loose")["num_steps"] == 2
    printed = undiffuse.fine(*common, tmp_path / "strict", "--tolerance", 1e-9).err
    assert sampling_of(tmp_path / "strict")["num_steps"] == 4
    assert "none of 2, 4 steps comes within 1e-09; took 4" in printed


def test_bf16_halves_the_weights_and_is_what_is_sampled(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    undiffuse.fine("export", trained, "--out", tmp_path / "out", "--bf16")
    full, half = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "out"))
    parameters = {name for name, _ in package.load(trained).module.named_parameters()}
    assert full.keys() == half.keys() >= parameters
    for name, value in half.items():
        assert value.dtype == (torch.bfloat16 if name in parameters else full[name].dtype)
        assert torch.equal(value, full[name].to(value.dtype))
    loaded = package.load(tmp_path / "out")
    assert all(value.dtype == torch.float32 for value in loaded.module.parameters())
    assert loaded.sample(2, steps=2).shape == (2, 1, 8, 8)


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a network that is trained in a test count as large."""
    monkeypatch.setattr(int8, "SMALLEST", 500)


@pytest.mark.usefixtures("small_counts")
def test_int8_quarters_the_weights_and_is_what_is_sampled(
    trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    """Nothing moves by more than half a step, and the model in hand goes on as the file is read."""
    out, model = tmp_path / "out", package.load(trained, "cpu")
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    export(model, out, int8=True)
    inside, loaded = load_file(out / "model.safetensors"), package.load(out, "cpu")
    large = {name.removesuffix(".int8") for name in inside if name.endswith(".int8")}
    assert large == int8.int8_names(loaded.module) and len(large) > 5
    for name, value in loaded.module.named_parameters():
        half = inside[f"{name}.scale"].view(-1, *[1] * (value.dim() - 1)) / 2 if name in large else 0
        assert value.dtype == torch.float32
        assert bool(((value - before[name]).abs() <= half * (1 + 1e-6) + before[name].abs() / 2**8).all())
        assert torch.equal(value, model.module.get_parameter(name))
    assert torch.equal(loaded.sample(2, steps=2, seed=5), model.sample(2, steps=2, seed=5))
    assert (out / "model.safetensors").stat().st_size < 0.4 * (trained / "model.safetensors").stat().st_size
    assert "int8 with a scale per output channel" in (out / "model_card.md").read_text()
    undiffuse.fine("export", out, "--out", tmp_path / "again", "--int8")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("small_counts")
def test_every_command_takes_a_model_in_int8(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    undiffuse.fine("export", trained, "--out", out, "--int8")
    undiffuse.fine("export", trained, "--out", tmp_path / "whole")
    written = (out / "config.json").read_bytes()
    found = []
    for folder in (out, tmp_path / "whole"):
        undiffuse.fine("doctor", folder, "--num", 48)
        findings = json.loads((folder / "doctor.json").read_text())["findings"]
        found.append({finding["title"]: finding["severity"] for finding in findings})
    assert found[0] == found[1]  # what a barely trained model lacks, and nothing else
    for words in (("seal", out), ("seal", "--restore", out)):
        assert "nothing to do" in undiffuse.fine(*words).out
    edited = written.replace(b'"temperature": 1.0', b'"temperature": 1.2')
    (out / "config.json").write_bytes(edited)
    assert "temperature: 1.0 -> 1.2" in undiffuse.rejected("sample", out, "--out", tmp_path / "s")
    undiffuse.fine("seal", "--restore", out)
    assert json.loads((out / "config.json").read_bytes()) == json.loads(written)
    short = ("num_images=32", "batch_images=16", "preview_every_images=0")
    undiffuse.fine("distill", out, "--steps", 2, "--method", "mean_flow", "--out", tmp_path / "student", *short)
    assert package.load(tmp_path / "student").sample(2).shape == (2, 1, 8, 8)


@pytest.mark.usefixtures("small_counts")
def test_a_weight_that_int8_cannot_keep_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    model = package.load(trained, "cpu")
    name = sorted(int8.int8_names(model.module))[0]
    model.module.get_parameter(name).view(-1)[3] = torch.nan
    with pytest.raises(UsageError, match=f"{name} has values that are not finite"):
        export(model, tmp_path / "out", int8=True)
    assert not (tmp_path / "out").exists() and no_leftovers(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tune-steps", "1"), "at least 2 steps, such as 10 or 6,8,10, got '1'"),
        (("--tune-steps", "ten"), "got 'ten'"),
        (("--tune-steps", ""), "got ''"),
        (("--tune-steps", "4", "--sampler", "ancestral"), "deterministic sampler"),
        (("--tune-steps", "4", "--sampler", "rk45"), "with fixed steps"),
        (("--tune-steps", "4", "--tolerance", "0"), "must be above 0"),
        (("--tune-steps", "4", "--seeds", "0"), "must be above 0"),
    ],
)
def test_senseless_tuning_is_rejected(
    options: tuple[str, ...], message: str, trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    assert message in undiffuse.rejected("export", trained, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists() and no_leftovers(tmp_path)


def test_nothing_else_is_overwritten(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert "name another folder" in undiffuse.rejected("export", trained, "--out", trained)
    assert "holds more than" in undiffuse.rejected("export", trained, "--out", trained, "--overwrite")
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == before
    out = tmp_path / "out"
    undiffuse.fine("export", trained, "--out", out)
    assert "--overwrite" in undiffuse.rejected("export", trained, "--out", out)
    undiffuse.fine("export", trained, "--out", out, "--overwrite")
    assert "is the model itself" in undiffuse.rejected("export", out, "--out", out, "--overwrite")


# --- temperature ----------------------------------------------------------------------------------------------------


def test_a_temperature_is_requested_for_or_kept(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    def sampled(name: str, model: Path, *options: object) -> tuple[dict[str, bytes], float]:
        out = tmp_path / name
        undiffuse.fine("sample", model, "-n", 3, "--steps", 4, "--sampler", "euler", "--out", out, *options)
        return images_in(out), json.loads((out / "samples.json").read_text())["temperature"]

    plain, cool = sampled("plain", trained), sampled("cool", trained, "--temperature", 0.8)
    assert (plain[1], cool[1]) == (1.0, 0.8) and plain[0] != cool[0]
    assert sampled("one", trained, "--temperature", 1) == plain
    undiffuse.fine("export", trained, "--out", tmp_path / "kept", "--temperature", 0.8)
    assert "At temperature 0.8;" in (tmp_path / "kept" / "model_card.md").read_text()
    assert sampled("own", tmp_path / "kept") == cool
    assert sampled("warm", tmp_path / "kept", "--temperature", 1) == plain
    undiffuse.fine("export", tmp_path / "kept", "--out", tmp_path / "back", "--temperature", 1)
    assert "numbers above, if there are any, are of 0.8" in (tmp_path / "back" / "model_card.md").read_text()
    undiffuse.fine("export", tmp_path / "kept", "--out", tmp_path / "again")
    assert sampling_of(tmp_path / "again")["temperature"] == 0.8
    at_four = {"steps": 4, "sampler": "euler"}
    both = (
        package.load(trained).sample(3, temperature=0.8, **at_four),
        package.load(tmp_path / "kept").sample(3, **at_four),
    )
    assert torch.equal(*both)


def test_a_grid_is_tuned_at_the_model_s_temperature(
    trained: Path, exported: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    """With no noise at all every sample of a class is the same; the errors say so."""
    out = tmp_path / "out"
    undiffuse.fine("export", trained, "--out", out, *TUNED, "--temperature", 0)
    cold, warm = (json.loads((folder / "config.json").read_text())["tuning"] for folder in (out, exported))
    assert cold["temperature"] == 0 and warm["temperature"] == 1
    assert cold["rms_error_of_named_grids"] != warm["rms_error_of_named_grids"]


@pytest.mark.parametrize("temperature", ["-1", "nan", "inf"])
def test_a_senseless_temperature_is_rejected(
    temperature: str, trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    measured = ("evaluate", trained, "--metrics")
    for command in (("sample", trained, "-n", 1), ("export", trained), (*measured, "kernel"), (*measured, "vlb")):
        line = undiffuse.rejected(*command, "--temperature", temperature, "--out", tmp_path / "out")
        assert "the temperature must be at least 0 and finite" in line
    assert not (tmp_path / "out").exists() and no_leftovers(tmp_path)


# --- guidance -------------------------------------------------------------------------------------------------------


def test_guidance_changes_samples_and_is_counted(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    def sampled(name: str, *options: object) -> tuple[dict[str, bytes], dict[str, object]]:
        out = tmp_path / name
        undiffuse.fine("sample", trained, "-n", 3, "--steps", 4, "--sampler", "euler", "--out", out, *options)
        return images_in(out), json.loads((out / "samples.json").read_text())

    plain, record = sampled("plain")
    assert (record["nfe"], record["guidance"]) == (4, 1.0)
    assert sampled("one", "--guidance", 1)[0] == plain
    strong, record = sampled("strong", "--guidance", 6)
    assert (record["nfe"], record["guidance"]) == (8, 6.0)
    assert strong != plain
    assert sampled("twos", "--guidance", 6, "--batch-size", 2)[0] == strong
    assert sampled("whole", "--guidance", 6, "--guidance-interval=-inf,inf")[0] == strong
    nowhere, record = sampled("nowhere", "--guidance", 6, "--guidance-interval", "50,60")
    assert (nowhere, record["nfe"], record["guidance_interval"]) == (plain, 4, "50,60")
    assert package.load(trained).sample(3, steps=4, sampler="euler", guidance=6).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guidance", "-1"), "guidance must be at least 0 and finite"),
        (("--guidance", "nan"), "guidance must be at least 0 and finite"),
        (("--guidance", "2", "--guidance-interval", "3"), "must be LO,HI"),
        (("--guidance", "2", "--guidance-interval", "a,b"), "must be LO,HI"),
        (("--guidance", "2", "--guidance-interval", "3,1"), "LO < HI"),
    ],
)
def test_senseless_guidance_is_rejected(
    options: tuple[str, ...], message: str, trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    assert message in undiffuse.rejected("sample", trained, "-n", 1, "--out", tmp_path / "x", *options)
    assert not (tmp_path / "x").exists()


def test_a_model_without_classes_has_nothing_to_be_guided_by(
    trained_bf16: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    printed = undiffuse.rejected("sample", trained_bf16, "-n", 1, "--guidance", 2, "--out", tmp_path / "x")
    assert "guidance 2 needs a model trained with classes" in printed
    train = ("train", "ddpm-digits", *TINY, "--dry-run", "system.sampling.guidance=2")
    assert "trained with classes" in undiffuse.rejected(*train, "system.class_conditional=false")
    assert "label_dropout=0" in undiffuse.rejected(*train, "system.label_dropout=0")
    undiffuse.fine(*train)


def test_the_guide_is_the_average_when_its_time_had_come(with_guide: Path) -> None:
    def network(images: int, what: str) -> dict[str, torch.Tensor]:
        tensors = load_file(with_guide / "checkpoints" / f"images_{images:012d}" / "state.safetensors")
        return {name.removeprefix(what): value for name, value in tensors.items() if name.startswith(what)}

    then, saved = network(96, "ema.network."), load_file(with_guide / "model.safetensors")
    assert int(saved["guide_seen"]) == 96
    assert all(torch.equal(saved[f"guide.{name}"], value) for name, value in then.items())
    assert any(not torch.equal(saved[f"network.{name}"], value) for name, value in then.items())
    assert int(network(64, "ema.guide_seen")[""]) == 0


def test_autoguidance_is_the_model_s_default_and_can_be_left_out(
    with_guide: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    def sampled(name: str, *options: object) -> tuple[dict[str, bytes], dict[str, object]]:
        out = tmp_path / name
        undiffuse.fine("sample", with_guide, "-n", 3, "--steps", 4, "--sampler", "euler", "--out", out, *options)
        return images_in(out), json.loads((out / "samples.json").read_text())

    guided, record = sampled("default")
    assert (record["nfe"], record["autoguidance"]) == (8, 3.0)
    assert sampled("again", "--autoguidance", 3, "--batch-size", 2)[0] == guided
    plain, record = sampled("plain", "--autoguidance", 1)
    assert (record["nfe"], record["autoguidance"]) == (4, 1.0)
    assert plain != guided
    never, record = sampled("never", "--autoguidance-interval", "90,99")
    assert (never, record["nfe"], record["autoguidance_interval"]) == (plain, 4, "90,99")
    some, record = sampled("some", "--autoguidance-interval=-inf,0")
    assert some not in (plain, guided) and 4 < record["nfe"] < 8
    both, record = sampled("both", "--guidance", 2)
    assert record["nfe"] == 16
    assert both != guided
    exported = tmp_path / "exported"
    undiffuse.fine("export", with_guide, "--out", exported)
    created = [package.load(path).sample(3, steps=4, sampler="euler") for path in (with_guide, exported)]
    assert torch.equal(*created)
    model = package.load(with_guide)
    assert torch.equal(model.sample(3, steps=4, sampler="euler", autoguidance=3), created[0])
    assert model.module.sampling_record()["autoguidance"] == 3
    assert isinstance(model.module, DenoisingModel)
    x_t, t = torch.zeros(1, 1, 8, 8), torch.full((1,), 0.5, dtype=torch.float64)
    created = [one(x_t, t) for one in (model.module.sampling_denoiser(), model.module.unguided_denoiser())]
    assert [one.nfe for one in created] == [2, 1] and not torch.equal(created[0].x_0, created[1].x_0)
    evaluation = tmp_path / "evaluation.json"
    options = ("--num", 100, "--metrics", "frechet", "--steps", 4, "--sampler", "euler", "--autoguidance", 1)
    undiffuse.fine("evaluate", with_guide, *options, "--out", evaluation)
    sampling = json.loads(evaluation.read_text())["results"][0]["protocol"]["samples"]
    assert (sampling["autoguidance"], sampling["nfe"]) == (1, 4)


def test_without_a_guide_autoguidance_is_rejected(
    trained: Path, with_guide: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    out = ("-n", 1, "--out", tmp_path / "x")
    assert "needs a model with a guide" in undiffuse.rejected("sample", trained, *out, "--autoguidance", 2)
    assert "at least 0 and finite" in undiffuse.rejected("sample", with_guide, *out, "--autoguidance=-1")
    assert "at least 0 and finite" in undiffuse.rejected("sample", with_guide, *out, "--autoguidance", "nan")
    wrong = undiffuse.rejected("sample", with_guide, *out, "--autoguidance-interval", "3,1")
    assert "LO < HI" in wrong
    assert "--autoguidance-interval must be LO,HI" in undiffuse.rejected(
        "sample", with_guide, *out, "--autoguidance-interval", "3"
    )
    printed = undiffuse.rejected("sample", trained, *out, "--autoguidance-interval", "-3,4")
    assert "needs a model with a guide" in printed
    assert "set autoguidance to 1" in undiffuse.rejected("sample", with_guide, *out, "--cache-interval", 2)
    train = ("train", "ddpm-digits", *TINY, "--dry-run", "system.sampling.autoguidance=2")
    assert "guide_images=30000" in undiffuse.rejected(*train)
    undiffuse.fine(*train, "system.guide_images=30000")


def test_a_run_that_ends_before_its_guide_samples_without(undiffuse: CommandLine, tmp_path: Path) -> None:
    options = ("system.guide_images=1000", "system.sampling.autoguidance=3", "num_images=64")
    printed = undiffuse.fine("train", "ddpm-digits", *TINY, *options, "--out", tmp_path / "run").err
    assert "system.guide_images=1000 is larger than num_images=64" in printed
    undiffuse.fine("sample", tmp_path / "run", "-n", 1, "--steps", 2, "--sampler", "euler", "--out", tmp_path / "s")
    assert json.loads((tmp_path / "s" / "samples.json").read_text())["nfe"] == 2


def test_feature_caching_is_counted_and_rejected_where_senseless(
    trained: Path, undiffuse: CommandLine, tmp_path: Path
) -> None:
    common = ("sample", trained, "-n", 3, "--steps", 4, "--sampler", "euler", "--out")
    printed = undiffuse.fine(*common, tmp_path / "a", "--cache-interval", 2).out
    assert "2 NFE and 2 of its finest level each" in printed
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert (record["reuse"], record["nfe"], record["partial_nfe"]) == (2, 2, 2)  # data
    earlier = undiffuse.fine(*common, tmp_path / "earlier", "--reuse", 2)  # data
    assert "'--reuse' was renamed to '--cache-interval'" in earlier.err  # data
    assert (tmp_path / "earlier" / "samples.json").read_bytes() == (tmp_path / "a" / "samples.json").read_bytes()
    undiffuse.fine(*common, tmp_path / "b", "--cache-interval", 1)
    assert json.loads((tmp_path / "b" / "samples.json").read_text())["partial_nfe"] == 0
    assert "at least 1" in undiffuse.rejected(*common, tmp_path / "x", "--cache-interval", 0)
    assert "cannot be combined" in undiffuse.rejected(*common, tmp_path / "x", "--cache-interval", 2, "--guidance", 2)
