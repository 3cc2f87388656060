"""The benchmark programs at their smallest size without peers; and what they say of peers where those are installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import undiffuse
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.runs import configure
from undiffuse.api.sealing import accept_edits
from undiffuse.cli.main import main
from undiffuse.core.condition import Condition
from undiffuse.data import DigitsConfig, load_dataset, split_by_content
from undiffuse.models.request import SampleRequest
from undiffuse.networks import UNetConfig, build_network
from undiffuse.recipes import get_recipe
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("step", "start", "learning", "evaluations", "scaling", "church48", "guidance", "errors", "norms")
PROGRAMS += ("classifier_guidance",)
TINY = UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1, time_injection="add", norm_groups=2)
Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def programs_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "parity"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a program in this process at its smallest size; its record comes back, and its page was written."""

    def go(name: str, *words: str) -> dict[str, Any]:
        out = tmp_path / f"{name}-found"
        arguments = [f"{name}.py", *words, "--smoke", "--no-peers", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", arguments)
        importlib.import_module(name).main()
        page = out.with_name(out.name + ".md").read_text()
        assert page.startswith("# ") and "nan" not in page
        return dict(json.loads(out.with_name(out.name + ".json").read_text()))

    return go


def tiny_recipe(name: str) -> RunConfig:
    """The recipe with a network that costs little."""
    config = get_recipe(name)
    return config.model_copy(update={"system": config.system.model_copy(update={"network": TINY})})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two images."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_recipe("flow-mnist")
    update = {"data": DigitsConfig(), "num_images": 2, "batch_images": 2, "validation_images": 0}
    train, held_out = split_by_content(load_dataset(DigitsConfig()), 0.1)
    assert Trainer(config.model_copy(update=update), train, held_out, folder).run()
    return folder


@pytest.fixture
def reported(tmp_path: Path) -> Path:
    """The same of a model that knows classes."""
    folder = tmp_path / "given"
    config = apply_overrides(get_recipe("ddpm-digits"), ["system.network.channels=8", "num_images=2", "batch_images=2"])
    train, held_out = split_by_content(load_dataset(DigitsConfig()), 0.1)
    config = config.model_copy(update={"validation_images": 0, "quality_every_images": 0})
    assert Trainer(config, train, held_out, folder).run()
    return folder


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_reports_how_to_use_it_and_stands_in_the_readme(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(name).main()
    message = capsys.readouterr().out
    assert stopped.value.code == 0 and f"benchmarks/{name}.py" in message and "--smoke" in message
    assert f"benchmarks/{name}.py" in (ROOT / "benchmarks" / "README.md").read_text()


def test_options_in_the_readme_exist() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    for name, rest in re.findall(r"benchmarks/(\w+)\.py([^\n`]*)", readme):
        source = (ROOT / "benchmarks" / f"{name}.py").read_text()
        source += (ROOT / "benchmarks" / "interleaved.py").read_text()
        for option in re.findall(r"--[a-z-]+", rest):
            assert f'"{option}"' in source, f"{name}.py has no {option}"


class Here:
    """Stands for ``apart.Apart``: the same in this process, which saves a start of Python for each row."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self.thing = make(*arguments)

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(self.thing, *arguments)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None: ...


def test_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows; that each has a process of its own is for the next test."""
    monkeypatch.setattr(importlib.import_module("step"), "Apart", Here)
    found = run("step")["cases"]["smoke"]
    for kind in ("training step", "sampling evaluation"):
        assert set(found[kind]["facts"]) == {"undiffuse, fp32", "undiffuse, bf16"}
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in found[kind]["seconds"].values())


def test_rows_of_a_step_are_chosen_by_name_and_measured_apart(run: Run) -> None:
    found = run("step", "--rows", "undiffuse, bf16")["cases"]["smoke"]
    assert set(found["training step"]["facts"]) == {"undiffuse, bf16"}
    with pytest.raises(SystemExit, match="no row 'undiffuse, fp8'; here are: undiffuse, fp32; undiffuse, bf16"):
        run("step", "--rows", "undiffuse, fp8")


def test_errors(run: Run) -> None:
    found = run("errors")
    assert found["seconds"].keys() == found["clock_seconds"].keys() and "a model" in found["seconds"]


def test_work_that_is_counted() -> None:
    cost = importlib.import_module("cost")
    convolution = torch.nn.Conv2d(4, 8, 3, padding=1)
    x = torch.zeros(2, 4, 5, 5)
    assert cost.forward_flops(lambda: convolution(x)) == 2 * 9 * 4 * 8 * 2 * 25
    query = torch.zeros(1, 1, 6, 4)  # the fused kernel of a CPU would be counted as nothing
    attend = torch.nn.functional.scaled_dot_product_attention
    assert cost.forward_flops(lambda: attend(query, query, query)) == 2 * 2 * 6 * 6 * 4


def test_a_ratio_is_taken_within_each_round_and_the_order_turns_round() -> None:
    interleaved = importlib.import_module("interleaved")
    order: list[str] = []

    def candidate(name: str, values: list[float]) -> Any:
        left = iter(values)

        def once() -> float:
            order.append(name)
            return next(left)

        return interleaved.Candidate(name, once)

    # the machine is a hundred times slower in the second round, for both
    taken = interleaved.take_turns([candidate("a", [9.0, 2.0, 200.0, 2.0]), candidate("b", [9.0, 1.0, 100.0, 1.0])], 3)
    assert taken == {"a": [2.0, 200.0, 2.0], "b": [1.0, 100.0, 1.0]}
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    faster = interleaved.times_faster(taken, "b", "a")
    assert faster.median == 2.0 and faster.extremes == (2.0, 2.0)
    assert interleaved.Summary.of([4.0, 1.0, 2.0, 3.0, 5.0]).quartiles == (2.0, 4.0)


def test_learning_is_timed_by_images_and_goes_on_where_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("learning"), "get_recipe", tiny_recipe)
    words = ("digits", "--learners", "undiffuse", "--work", str(tmp_path / "work"))
    rate = run("learning", "rates", *words)["rates"]["undiffuse"]["images_per_second"]
    assert rate > 0
    (row,) = run("learning", "train", *words, "--ways", "own_ddim", "solver_20")["rows"]
    assert row["images"] >= 60 * row["minutes"] * rate > row["images"] - 64
    assert row["own_ddim"]["frechet"] > 0 and row["solver_20"]["num"] == row["own_ddim"]["num"]
    assert all(0 < error < 2 for error in row["error_by_log_snr"])
    assert run("learning", "train", *words)["rows"] == [row]  # nothing is made twice


def test_a_look_at_fewer_images_than_what_lies_there_has_seen_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = importlib.import_module("learning")
    created: list[Any] = []

    class Counted:
        def __init__(self) -> None:
            self.images, self.restored = 0, 0
            created.append(self)

        def restore(self, folder: Path) -> None:
            self.images = self.restored = int((folder / "state").read_text())

        def step(self) -> None:
            self.images += 1

        def save(self, folder: Path) -> None:
            pass

    monkeypatch.setitem(learning.LEARNERS, "undiffuse", types.SimpleNamespace(make=lambda *_: Counted()))
    monkeypatch.setattr(learning, "recipe_for", lambda data: "")
    monkeypatch.setattr(learning, "look", lambda *_: {})
    unit = learning.Unit("undiffuse", 0, 2.0)
    arguments = types.SimpleNamespace(work=tmp_path, device="cpu", data="")
    (tmp_path / unit.folder).mkdir()
    parts, measure = (types.SimpleNamespace(provenance={}), None), types.SimpleNamespace(protocol={})
    for seen, images, learners in ((30, [60, 120], 1), (60, [60, 120], 1), (90, [60, 120], 2)):
        out, _ = tmp_path / f"{seen}.json", created.clear()
        out.write_text(json.dumps({"rates": {"undiffuse": {"images_per_second": 1.0}}, "rows": []}))
        (tmp_path / unit.folder / "state").write_text(str(seen))
        learning.one_run(arguments, unit, [1.0, 2.0], parts, measure, out, float("inf"))
        assert [row["images"] for row in json.loads(out.read_text())["rows"]] == images
        assert len(created) == learners


def test_rows_created_on_another_processor_report_so() -> None:
    interleaved = importlib.import_module("interleaved")
    rows = [{"seed": 0}, {"seed": 1, "cpu": "B"}, {"seed": 2, "cpu": "A"}, {"seed": 3, "cpu": "B"}]
    record = {"machine": {"cpu": "A"}, "rows": [*rows, rows[1]]}
    message = list(interleaved.elsewhere(record, lambda row: f"seed {row['seed']}"))
    assert message == ["- measured on B: seed 1; seed 3"]


def test_a_look_by_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    learning = importlib.import_module("learning")
    monkeypatch.setattr(learning, "error_by_level", lambda *_: [0.5] * len(learning.LEVELS))
    learner = types.SimpleNamespace(
        sample_our_way=lambda num, seed: 2.0, denoiser=lambda: None
    )  # and no way of its own
    arguments = types.SimpleNamespace(ways=["solver_20"], num=1, held_out=1)
    unit = learning.Unit("undiffuse", 0, 1.0)
    row = learning.look(learner, unit, lambda images: {"frechet": images}, None, arguments)
    assert "own_ddim" not in row and row["solver_20"] == {"frechet": 2.0}
    entries = {**unit._asdict(), "minutes": 1.0, "images": 64}
    row["solver_20"]["confident_share"] = 0.25
    (line,) = learning.quality_rows({"rows": [{**entries, **row}]})
    assert line[5:8] == ["", "2.00 (2.00 to 2.00)", "25.00 (25.00 to 25.00) %"] and line[8:] == ["0.5000"] * len(
        learning.LEVELS
    )


def test_a_peer_that_was_sampled_in_no_way_is_nobodys_goal() -> None:
    learning = importlib.import_module("learning")
    look = {"run_minutes": 1.0, "minutes": 1.0, "seed": 0}
    rows = [{**look, "learner": "undiffuse", "solver_20": {"frechet": 2.0}}, {**look, "learner": "peer"}]
    record = {"rates": {"undiffuse": {}, "peer": {}}, "rows": rows}
    assert list(learning.crossing_lines(record)) == []
    rows[1]["own_ddim"] = {"frechet": 3.0}
    (line,) = learning.crossing_lines(record)
    assert line == "- seed 0 is as good as the best seed of peer after 1 minutes (3.00) after 1 minutes"


def test_a_learner_put_aside_goes_on_bit_for_bit(tmp_path: Path) -> None:
    learners = importlib.import_module("learners")
    data = load_dataset(DigitsConfig())
    config = tiny_recipe("flow-mnist")
    setting = learners.Setting(data, seed=3, num_images=4 * 64)
    straight, first, second = (learners.Ours(config, setting, tmp_path) for _ in range(3))
    straight.step(), straight.step(), first.step()
    first.save(tmp_path / "aside")
    second.restore(tmp_path / "aside")
    second.step()
    assert second.images == straight.images == 128
    expected, found = straight.system.state_dict(), second.system.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_evaluations(run: Run, model: Path, tmp_path: Path) -> None:
    record = run("evaluations", str(model), "--work", str(tmp_path / "work"))
    assert [(row["way"], row["nfe"]) for row in record["rows"]] == [("dpmpp_2m:2", 2), ("ancestral:3", 3)]
    page = (tmp_path / "evaluations-found.md").read_text()
    few, many = (
        next(line for line in page.splitlines() if f"`{way}`" in line) for way in ("dpmpp_2m:2", "ancestral:3")
    )
    ratio = record["rows"][0]["frechet"] / record["rows"][1]["frechet"]
    assert few.endswith(f"{ratio:.3f} |") and many.endswith("1.000 |")


def test_evaluations_relative_to_a_teacher() -> None:
    evaluations = importlib.import_module("evaluations")

    def row(model: str, way: str, seed: int, value: float) -> dict[str, object]:
        entries = {"model": model, "way": way, "sampling_seed": seed, "nfe": 1}
        return {**entries, "frechet": value, "standard_error": 0.1}

    reported = [("big", "default", 0, 1.0), ("big", "default", 1, 2.0), ("big", "heun:5", 0, 5.0)]
    reported += [("small", "default", 0, 3.0), ("small", "default", 1, 6.0), ("small", "default", 2, 7.0)]
    record = {"teacher": "big", "rows": [row(*one) for one in reported]}
    assert [line[-1] for line in evaluations.lines_of(record, "small")] == ["3.000 ± 0.000"]
    assert [line[-1] for line in evaluations.lines_of(record, "big")] == ["1.000 ± 0.000", "5.000"]


def test_evaluations_by_the_kernel_distance_over_named_features(run: Run, model: Path, tmp_path: Path) -> None:
    words = (str(model), "--work", str(tmp_path / "work"))
    record = run("evaluations", *words, "--metric", "kernel", "--features", "pixels")
    assert all("frechet" not in row and row["features"] == "pixels" for row in record["rows"])
    page = (tmp_path / "evaluations-found.md").read_text()
    assert f"| {record['rows'][0]['kernel']:.5f} (" in page and "| Kernel |" in page
    with pytest.raises(SystemExit, match="have features pixels, not handwriting; name another --out"):
        run("evaluations", *words, "--metric", "kernel", "--features", "handwriting")
    with pytest.raises(SystemExit, match="have metric kernel, not frechet"):
        run("evaluations", *words, "--features", "pixels")


def test_evaluations_do_not_mix_a_model_with_what_it_was(run: Run, model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    words = (str(copy), "--work", str(tmp_path / "work"))
    (_, row) = run("evaluations", *words)["rows"]
    config = json.loads((copy / "config.json").read_text())
    sampling = config["config"]["system"]["sampling"]
    assert row["grid"] == sampling["grid"]
    sampling["grid"] = "karras"
    (copy / "config.json").write_text(json.dumps(config))
    accept_edits(copy)
    with pytest.raises(SystemExit, match=r"copy has .* now, its rows .*; name another --out"):
        run("evaluations", *words)
    (tmp_path / "evaluations-found.json").unlink()
    (_, other) = run("evaluations", *words)["rows"]  # drawn anew, though the folder of pieces is the same
    assert other["grid"] == "karras" and other["frechet"] != row["frechet"]


#: What a record says of its models from 2026-12-01 on; those before are of the weights in bfloat16 (ADR 0065).
KEPT = {
    "fashion": {
        "weights_sha256": "f3519ee4ad63bb36931c5843f8f4464c5e1e87709dff2917311b83c3cb2541d1",
        "model_sha256": "0cb1c04e3862b29db32648a58e43d15318ffa666e9c779616099fa3f5a1d9e2b",
        "grid": "uniform",
    },
    "mnist": {
        "weights_sha256": "04827f03b6beeaaa2d925c1bdcda0c03d833378054ad29bd366dbeb081ec5969",
        "model_sha256": "882f7c3158e6dc2805e6b9fb0685e43b83fd5b0e0f8b4869da2a6a0db0667727",
        "grid": "uniform",
    },
    "mnist-2step": {
        "weights_sha256": "dc74f7c59390e31fd37980770e8bc0c2e7f7d002e20918cecd3e7a7468386512",
        "model_sha256": "929256e3d57acbf7a3ccdd17305a7dc7d91cbf14256b38df9c35775d2f1ca5f3",
        "grid": "angle",
    },
    "mnist-1step": {
        "weights_sha256": "4edd50f7b63089a9b614f0c90c15e717044f330edc7d27bde6c114311d7afeec",
        "model_sha256": "e9758976aa687e91fdc2fb2d49f150a044c6f2ceffa8a436ddf395a59ae38d8d",
        "grid": "angle",
    },
}


@pytest.mark.parametrize("name", KEPT)
def test_a_record_started_now_can_be_resumed(name: str) -> None:
    """It is of the bundled models as these are now: neither weights nor their own way to sample change unseen."""
    assert importlib.import_module("evaluations").identity_of(undiffuse.load(name)) == KEPT[name]


def test_a_way_names_sampler_steps_and_temperature() -> None:
    evaluations = importlib.import_module("evaluations")
    seeds = range(2)
    assert evaluations.request_of("default", seeds) == SampleRequest.of(seeds)
    assert evaluations.request_of("default@0.9", seeds) == SampleRequest.of(seeds, temperature=0.9)
    way = evaluations.request_of("ddim:eta=0.5:20@0", seeds)
    assert way == SampleRequest.of(seeds, sampler="ddim:eta=0.5", steps=20, temperature=0.0)
    for wrong in ("heun", "heun:5@warm", "@0.9", "default@", "default@nan", "default@-1"):
        with pytest.raises(SystemExit, match="got"):
            evaluations.request_of(wrong, seeds)


def test_the_interval_of_a_ratio_is_students() -> None:
    evaluations = importlib.import_module("evaluations")
    # t(0.975, 2) = 4.3027; the deviation of 1, 2, 3 is 1
    assert evaluations.interval([1.0, 2.0, 3.0]) == f"2.000 ± {4.302653 / math.sqrt(3):.3f}"


def test_scaling(run: Run, tmp_path: Path) -> None:
    record = run("scaling")
    assert {(row["axis"], row["kind"]) for row in record["rows"]} == {
        (axis, kind) for axis in ("resolution", "width", "batch") for kind in ("training step", "evaluation")
    }
    scaling = importlib.import_module("scaling")
    values, _, flops = scaling.curve(record, "batch", "evaluation")
    assert scaling.slope(values, flops) == pytest.approx(1)
    assert scaling.slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert (tmp_path / "scaling-found.png").stat().st_size > 1000


def test_church48(run: Run) -> None:
    record = run("church48")
    assert record["evaluations"] == 1 and len(record["seconds"]["sampling"]) == 1


def test_guidance(run: Run, reported: Path, tmp_path: Path) -> None:
    record = run("guidance", str(reported), "--features", "pixels", "--work", str(tmp_path / "work"))
    assert [(row["weight"], row["nfe"]) for row in record["rows"]] == [(1.0, 2), (2.0, 4)]


def test_classifier_guidance(run: Run, reported: Path, tmp_path: Path) -> None:
    tiny = ["system.network.channels=8", "system.network.multipliers=[1]", "data.name=digits", "num_images=64"]
    config = configure("classifier-mnist", [*tiny, "system.network.patch_size=1"], "digits", None, False)
    classifier = tmp_path / "classifier"
    assert Trainer(config, *split_by_content(load_dataset(DigitsConfig()), 0.1), classifier).run()
    folders = ["--classifier", str(classifier), "--work", str(tmp_path / "work")]
    record = run("classifier_guidance", str(reported), "--features", "pixels", "--through", "x_t", "x_0", *folders)
    assert [(row["kind"], row["weight"], row["through"], row["nfe"]) for row in record["rows"]] == [
        *(("free", weight, "x_t", 4) for weight in (1.0, 2.0)),
        *((kind, 1.0, through, 4) for through in ("x_t", "x_0") for kind in ("classifier", "both")),
    ]
    assert len({row["kernel"] for row in record["rows"]}) == 3  # the network does not know its classes yet
    assert (tmp_path / "classifier_guidance-found.png").stat().st_size > 0


def test_the_guidance_to_ship_is_the_best_that_still_covers() -> None:
    guidance = importlib.import_module("guidance")
    columns = ("weight", "kernel", "kernel_error", "coverage", "coverage_error")
    numbers = [(1.0, 0.10, 0.01, 0.40, 0.02), (2.0, 0.065, 0.01, 0.45, 0.02), (3.0, 0.06, 0.01, 0.44, 0.02)]
    rows = [dict(zip(columns, row, strict=True)) for row in [*numbers, (4.0, 0.03, 0.01, 0.30, 0.02)]]
    assert guidance.best(rows)["weight"] == 2.0  # 3 is no better by more than its error, and 4 covers less
    assert guidance.best(rows[:1])["weight"] == 1.0


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_start(apart: bool, run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands as processes, or the words of them said in this one."""
    ran: list[str] = []

    def here(command: list[str], **options: object) -> None:
        if "-c" in command:
            exec(command[-1])
        else:
            words = command[command.index("sample") :]
            with pytest.raises(SystemExit) as stopped:
                main(words)
            assert not stopped.value.code
        ran.append(command[-1])

    if not apart:
        monkeypatch.setattr(importlib.import_module("start").subprocess, "run", here)
    record = run("start", "--model", str(model))
    assert set(record["seconds"]) == {"import torch", "undiffuse sample tiny"}
    assert apart or len(ran) == 2


def test_the_stand_in_is_there_while_it_is_needed_and_no_longer() -> None:
    peers = importlib.import_module("peers")
    name = "no_such_module_is_installed"
    with peers.stand_in(name, "part"):
        assert isinstance(importlib.import_module(f"{name}.part"), types.ModuleType)
    assert not [key for key in sys.modules if key.startswith(name)]
    with pytest.raises(RuntimeError), peers.stand_in(name):
        raise RuntimeError
    assert name not in sys.modules
    with peers.stand_in("json", "decoder"):
        assert importlib.import_module("json") is json  # a real module is left alone


def test_diffusers_network_computes_what_ours_does() -> None:
    pytest.importorskip("diffusers")
    peers, weights = importlib.import_module("peers"), importlib.import_module("unet_weights")
    torch.manual_seed(0)
    for case in importlib.import_module("step").CASES.values():
        config = case.network.model_copy(update={"channels": 8, "dropout": 0.0, "norm_groups": 2})
        theirs, ours = peers.diffusers_unet(config, case.shape).eval(), build_network(config, case.shape).eval()
        with torch.no_grad():  # norms of theirs are ones and zeros, where a mistake would not show
            for parameter in theirs.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        weights.copy_weights(ours, theirs)
        x, t = torch.randn(2, *case.shape), torch.tensor([3.0, 871.0])
        with torch.no_grad():
            difference = theirs(x, t).sample - ours(x, t, Condition())
        assert difference.abs().max() < 1e-3


def test_diffusers_is_rejected_a_network_that_it_cannot_be() -> None:
    peers = importlib.import_module("peers")
    from undiffuse.errors import UsageError

    for update in ({"patch_size": 2}, {"norm_groups": 8}, {"time_injection": "scale_shift"}):
        with pytest.raises(UsageError, match="plain"):
            peers.diffusers_unet(TINY.model_copy(update=update), (1, 8, 8))


@pytest.mark.parametrize("kind", ["Diffusers", "DDP"])
def test_a_peer_learns_is_measured_and_goes_on(kind: str, tmp_path: Path) -> None:
    peers, learners = importlib.import_module("peers"), importlib.import_module("learners")
    needed = peers.DIFFUSERS if kind == "Diffusers" else peers.DDP
    if not peers.available()[needed]:
        pytest.skip(f"{needed} is not installed; make bench-setup has it in a virtual environment of its own")
    setting = learners.Setting(load_dataset(DigitsConfig()), seed=1, num_images=64)

    def created() -> Any:
        return learners.Diffusers(setting, TINY) if kind == "Diffusers" else learners.DDP(setting, 100_000)

    straight, first, second = created(), created(), created()
    straight.step(), straight.step(), first.step()
    first.save(tmp_path)
    second.restore(tmp_path)
    second.step()
    assert straight.images == second.images == 32
    expected, found = straight.network().state_dict(), second.network().state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert second.sample_own_way(3, 0, 2).shape == second.sample_our_way(3, 0).shape == (3, 1, 8, 8)
    assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]


@pytest.mark.parametrize("kind", ["Diffusers", "DDP"])
def test_a_wrapped_peer_reports_the_x_0_that_its_own_formula_reports(kind: str) -> None:
    """The x_0-hat of each peer's own scheduler, at one of its knots, is the wrapped denoiser's."""
    peers, learners = importlib.import_module("peers"), importlib.import_module("learners")
    needed = peers.DIFFUSERS if kind == "Diffusers" else peers.DDP
    if not peers.available()[needed]:
        pytest.skip(f"{needed} is not installed; make bench-setup has it in a virtual environment of its own")
    setting = learners.Setting(load_dataset(DigitsConfig()), seed=1)
    learner = learners.Diffusers(setting, TINY) if kind == "Diffusers" else learners.DDP(setting, 100_000)
    denoiser, k, x = learner.denoiser(), 700, torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        found = denoiser(x, torch.full((2,), (k + 1) / 1000, dtype=torch.float64)).x_0
        if kind == "Diffusers":
            scheduler, index = learner.noises, torch.full((2,), k)
            eps = learner.averaged()(x, index).sample
            alpha_bar = scheduler.alphas_cumprod[k]
            expected = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
        else:
            diffusion = learner.average.ema_model
            expected = diffusion.model_predictions(x, torch.full((2,), k)).pred_x_start
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)
