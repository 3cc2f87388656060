"""A name that is wrong is answered before anything heavy is imported: that costs seconds."""

from __future__ import annotations

import inspect
import json
import runpy
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from undiffuse.augment.config import AUGMENTATIONS
from undiffuse.cli.checks import lines
from undiffuse.cli.checks.commands import CHECKS, check_line
from undiffuse.cli.checks.names import REGISTRIES, check_overrides
from undiffuse.cli.checks.outline import UNKNOWN, defaults_in, definition, names_in, options_of, rows_of
from undiffuse.cli.main import app
from undiffuse.config import model_of
from undiffuse.core.parameterization import PARAMETERIZATIONS
from undiffuse.core.processes import PROCESSES
from undiffuse.data.download import SETS
from undiffuse.data.registry import SOURCES
from undiffuse.errors import UsageError
from undiffuse.evaluation import METRICS
from undiffuse.evaluation.compare import PAIR_METRICS
from undiffuse.losses.adversarial import OBJECTIVES
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.metrics.features import FEATURES
from undiffuse.metrics.set_distance import SET_DISTANCES
from undiffuse.objectives import OBJECTIVE_CONFIGS
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.recipes.few_step import DISTILLATIONS
from undiffuse.registry import resolve
from undiffuse.samplers import SAMPLERS
from undiffuse.samplers.grids import GRIDS
from undiffuse.studies import MODEL_STUDIES
from undiffuse.studies.theory.ground_truth import TRUTHS

#: Every command with one thing wrong, and a word that the answer has.
WRONG: dict[str, str] = {
    "trian ddpm-digits": "'train'",
    "--verison": "'--version'",
    "train ddpm-digits --resum": "'--resume'",
    "train ddpm-digits --num-images 3": "num_images=VALUE",
    "sample mnist -q": "--num",
    "sample mnist --nmu=3": "'--num'",
    "study sweeep mnist": "'sweep'",
    "data inf digits": "'info'",
    "seal mnst": "mnist",
    "train ddpm-digits --data folder:nowhere": "no such file or folder",
    "train ddpm-digit": "ddpm-digits",
    "train ddpm-digits num_image=5": "num_images",
    "train ddpm-digits num_images": "key=value",
    "train ddpm-digits optimizer.learning_rat=1": "learning_rate",
    "train ddpm-digits optimiser.learning_rate=1": "optimizer",
    "train ddpm-digits ema.posthoc.snapshot_every_image=3": "snapshot_every_images",
    "train ddpm-digits system.network.chanels=8": "channels",
    "train ddpm-digits system.process=vpsd": "unknown process",
    "train flow-mnist system.network.mlp_ratio=4": "network 'unet' has no key 'mlp_ratio'",
    "train flow-mnist system.generator.channels=4": "no section 'generator'",
    "train ddpm-digits data.path=x": "data source 'digits' has no key 'path'",
    "study small-data --data digits --recipe flow-mnist system.process.beta_min=1": "has no key 'beta_min'",
    "train ddpm-digits system.process.beta_strat=1": "beta_start",
    "train ddpm-digits system.network.name=uent": "unet",
    "train ddpm-digits system.sampling.sampler=hune": "heun",
    "train ddpm-digits system.parameterization=epsilon": "eps",
    "train ddpm-digits --data nowhere": "nowhere",
    "train ddpm-digits --device tpu": "cuda",
    "train ddpm-digits --stop-after soon": "10m",
    "sample nowhere": "nowhere",
    "sample mnst": "mnist",
    "sample mnist --sampler hune": "heun",
    "sample mnist --sampler ddim:et=1": "eta",
    "sample mnist --sampler ddim:eta=lots": "number",
    "sample mnist --grid karas": "karras",
    "sample mnist --grid karras:rh=1": "rho",
    "sample mnist --process vee": "unknown process",
    "sample mnist --class eleven": "unknown class",
    "sample mnist --device tpu": "cuda",
    "sample mnist --weights best": "ema",
    "sample mnist --guidance-interval 3": "LO,HI",
    "invert nowhere digits --out x": "nowhere",
    "invert mnist nowhere --out x": "nowhere",
    "invert mnist digits --out x --sampler rk4": "rk45",
    "evaluate nowhere": "nowhere",
    "evaluate mnist --metrics fid": "unknown metric",
    "evaluate mnist --features incepton": "inception",
    "evaluate mnist --sampler hune": "heun",
    "evaluate mnist --data nowhere": "nowhere",
    "compare nowhere digits": "nowhere",
    "compare digits digits --metrics fid": "unknown metric",
    "compare digits digits --features incepton": "inception",
    "compare digits digits --counts 3,2": "250",
    "report nowhere": "nowhere",
    "doctor nowhere": "nowhere",
    "doctor digits --against nowhere": "nowhere",
    "distill nowhere": "nowhere",
    "distill mnist --method consistent": "consistency",
    "distill mnist num_image=3": "num_images",
    "export nowhere --out x": "nowhere",
    "export mnist --out x --tune-steps few": "whole numbers",
    "export mnist --out x --sampler unpic": "unipc",
    "ema nowhere --sigma-rel 0.1 --out x": "nowhere",
    "models mnst": "mnist",
    "demo --device tpu": "cuda",
    "data info nowhere": "nowhere",
    "data info digits size_=3": "size",
    "data info digits --augment kars --grid x.png": "karras",
    "data prepare nowhere --out x.zip": "nowhere",
    "data get mnst": "mnist",
    "study theory exact:swisroll": "swissroll",
    "study theory nowhere": "nowhere",
    "study theory exact:rings --process vee": "unknown process",
    "study sweep nowhere": "nowhere",
    "study sweep mnist sampler_=3": "samplers",
    "study parameterization --data nowhere": "nowhere",
    "study one-class --data nowhere": "nowhere",
    "study one-class --data digits --recipe flow-mnst": "flow-mnist",
    "study one-class --data digits --features incepton": "inception",
    "study small-data --data digits num_image=3": "num_images",
    "sample mnist -n 0": "the number of samples must be at least 1",
    "sample mnist --batch-size 0": "batch_size",
    "sample mnist --shown 0": "grid",
    "evaluate mnist --seed -1": "seed",
    "evaluate mnist --likelihood-probes 0": "likelihood_probes",
    "compare digits digits --num 0": "num",
    "invert mnist digits --out x --steps 3": "--steps",
    "export mnist --out x --tune-steps 6 --seeds 0": "--seeds",
    "distill mnist --steps 3": "--steps",
    "doctor digits --near 2": "--near",
    "data prepare digits --out x.zip --workers 0": "--workers",
    "data prepare digits --out x": ".zip",
    "study theory exact:rings --num 3": "at least 50",
    "study parameterization --images 0": "--images",
    "study one-class --data digits --num 1": "at least 2",
    "study small-data --data digits --every 0": "--every",
    "study sweep mnist --seed -1": "--seed",
    "train": "name your images",
    "train ddpm-digits --resume": "--out DIR",
}

#: Values that are none, for which pydantic finds the words.
WRONG_VALUES: dict[str, str] = {
    "train ddpm-digits num_images=many": "'many'",
    "train ddpm-digits optimizer.learning_rate=-1": "greater than 0",
    "train ddpm-digits system.network.channels=abc": "key 'channels': Input should be a valid integer",
    "train ddpm-digits system.label_dropout=2": "less than",
    "train ddpm-digits system.time_draws=random": "'stratified'",
    "train ddpm-digits system.process.num_steps=abc": "valid integer",
    "train ddpm-digits system.weighting=min_snr system.weighting.gamma=abc": "valid number",
    "train ddpm-digits loader.workers=many": "'loader.workers': expected auto or a number of processes",
    "train ddpm-digits data.size=-3": "'size'",
    "train ddpm-digits micro_batch_images=7": "must divide",
    "train ddpm-digits system.learned_variance=true": "system.objective=hybrid",
    "train ddpm-digits system.process=vp system.process.beta_min=30": "beta_min <= beta_max",
    "sample letters --guidance 3": "classes",
    "study sweep mnist num=0": "'num'",
}

#: What no wrong name may wait for, and no wrong value.
HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "rich")
PARSERS = ("typer", "click", "pydantic", "pydantic_core", "importlib.metadata")

PROGRAM = """
import contextlib, io, json, shlex, sys
from undiffuse.__main__ import main
said = {}
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        try:
            main(shlex.split(line))
        except SystemExit as stop:
            said[line] = (stop.code, err.getvalue(), [name for name in sys.argv[2:] if name in sys.modules])
print(json.dumps(said))
"""


def answers(wrong: Iterable[str], unwanted: Iterable[str], cwd: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Exit code and answer of each line, one after the other in one process, and what of the unwanted was imported."""
    program = [sys.executable, "-c", PROGRAM, json.dumps(list(wrong)), *unwanted]
    ran = subprocess.run(program, capture_output=True, text=True, check=True, cwd=cwd)
    found: dict[str, tuple[int, str, list[str]]] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(("wrong", "unwanted"), [(WRONG, (*HEAVY, *PARSERS)), (WRONG_VALUES, (*HEAVY, "typer"))])
def test_a_wrong_name_is_answered_before_anything_heavy(
    wrong: dict[str, str], unwanted: tuple[str, ...], tmp_path: Path
) -> None:
    found = answers(wrong, unwanted, tmp_path)
    assert found.keys() == wrong.keys()
    for line, (code, complaint, imported) in found.items():
        assert imported == [], line
        assert code == 2 and wrong[line] in complaint and len(complaint.splitlines()) == 1, (line, complaint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    ["", "study", "--version", "evaluate", "sample mnist --help", "sample mnist -n ten", "sample mnist -n", "ema x"],
)
def test_what_is_not_plain_is_left_to_the_parser(line: str) -> None:
    assert lines.read(line.split()) is None


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("sample mnist -n 3", {"model": "mnist", "num": 3}),
        ("sample -n3 --class=1 mnist --class -1", {"model": "mnist", "num": 3, "class_name": ["1", "-1"]}),
        ("sample --progressive -- -mnist", {"model": "-mnist", "progressive": True}),
        ("sample mnist --guidance -2", {"model": "mnist", "guidance": -2.0}),
        ("train r a=1 --resume b=2", {"recipe": "r", "overrides": ["a=1", "b=2"], "resume": True}),
        ("report a --study x b --study y", {"models": ["a", "b"], "study": ["x", "y"]}),
        ("recipes", {}),
    ],
)
def test_a_line_is_read_as_the_parser_reads_it(line: str, values: dict[str, Any]) -> None:
    """Right value: the parser's own, for what was said."""
    found = lines.read(line.split())
    assert found is not None and found.values == values
    command = typer.main.get_command(app).commands[found.command]  # type: ignore[attr-defined]
    context = command.make_context(found.command, line.split()[1:])
    assert {name: context.params[name] for name in values} == {
        name: [*map(Path, value)] if name == "study" else value for name, value in values.items()
    }


TOOL = Path(__file__).parents[2] / "tools" / "make_cli_reference.py"


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a file, samples and a run that has come to something."""
    monkeypatch.chdir(tmp_path)
    for name in ("file", "samples/samples.json", "run/config.json", "run/checkpoints/one"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("sample mnist --out file", "is a file"),
        ("sample mnist --out samples", "--overwrite"),
        ("invert mnist digits --out file", "is a file"),
        ("export mnist --out run", "--overwrite"),
        ("train ddpm-digits --out file", "is a file"),
        ("train ddpm-digits --out samples", "holds no run"),
        ("train ddpm-digits --out run", "--resume"),
        ("study sweep mnist --out file", "is a file"),
        ("sample mnist --out file/inside", "a file is where a folder is needed"),
        ("evaluate mnist --out file/inside", "a file is where a folder is needed"),
        ("compare digits digits --out file/inside", "a file is where a folder is needed"),
    ],
)
def test_a_place_that_is_taken_is_reported_before_anything_is_imported(line: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        check_line(line.split())


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize(
    "line",
    [
        "sample mnist --out samples --overwrite",
        "train ddpm-digits --out run --resume",
        "train ddpm-digits --out file --dry-run",
        "train ddpm-digits --out new/run",
    ],
)
def test_a_place_that_is_free_is_let_be(line: str) -> None:
    check_line(line.split())


def test_the_table_is_the_parsers() -> None:
    created = runpy.run_path(str(TOOL))
    assert created["TABLE"].read_text() == created["table_text"](), f"run: python tools/{TOOL.name}"


def test_every_command_that_takes_names_is_checked() -> None:
    without = {"recipes", "samplers", "data list"}
    table = json.loads(Path(lines.__file__).with_name("command_lines.json").read_text())
    commands = {name: row for name, row in table.items() if name and not row["commands"]}
    assert CHECKS.keys() == commands.keys() - without
    for name, check in CHECKS.items():
        parameters = [*commands[name]["arguments"], *commands[name]["options"].values()]
        requested = inspect.signature(check).parameters.keys() - {"flags"}  # all of them, for the options of sampling
        assert requested <= {one["name"] for one in parameters}, name


KINDS: dict[str, Mapping[str, Any]] = {
    "sampler": SAMPLERS,
    "time grid": GRIDS,
    "process": PROCESSES,
    "parameterization": PARAMETERIZATIONS,
    "metric": METRICS,
    "pair metric": PAIR_METRICS,
    "features": FEATURES,
    "distance": SET_DISTANCES,
    "distillation method": DISTILLATIONS,
    "exact distribution": TRUTHS,
    "public data set": SETS,
}


def test_outlines_have_all_names() -> None:
    assert KINDS.keys() == REGISTRIES.keys()
    assert names_in("undiffuse.data.registry:SOURCES") == tuple(SOURCES)
    assert names_in("undiffuse.augment.config:AUGMENTATIONS") == tuple(AUGMENTATIONS)
    for name, row in SOURCES.items():
        assert options_of(rows_of("undiffuse.data.registry:SOURCES")[name]).keys() == row.config.model_fields.keys(), (
            name
        )
    for kind, registry in KINDS.items():
        assert names_in(REGISTRIES[kind]) == tuple(registry), kind


@pytest.mark.parametrize("kind", ["sampler", "time grid", "process"])
def test_outlines_have_all_options_and_defaults(kind: str) -> None:
    for name, row in KINDS[kind].items():
        parameters = inspect.signature(resolve(row)).parameters.items()
        truth = {key: one.default for key, one in parameters if one.default is not one.empty}
        found = defaults_in(REGISTRIES[kind], name)
        assert found.keys() == truth.keys(), name
        assert all(found[key] in (truth[key], UNKNOWN) for key in truth), name


def test_outlines_have_all_fields_of_studies_and_of_runs() -> None:
    for name, study in MODEL_STUDIES.items():
        assert options_of(definition(study.options)).keys() == resolve(study.options).model_fields.keys(), name
    for row in [*OBJECTIVE_CONFIGS.values(), "undiffuse.training.config:RunConfig"]:
        assert options_of(definition(row)).keys() == resolve(row).model_fields.keys(), row
    for place, registry in (
        ("undiffuse.losses.weighting:WEIGHTINGS", WEIGHTINGS),
        ("undiffuse.losses.density:TIME_DENSITIES", TIME_DENSITIES),
        ("undiffuse.losses.adversarial:OBJECTIVES", OBJECTIVES),
    ):
        for name, row in registry.items():
            assert defaults_in(place, name).keys() == model_of(name, row).model_fields.keys() - {"name"}, name


def leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``key=value`` for each leaf of a dumped configuration."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += leaves(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}={json.dumps(value)}")
    return found


def test_no_key_of_a_recipe_is_rejected() -> None:
    """Right values: each leaf of each recipe's own configuration is one that it may be given."""
    check_overrides(sorted({leaf for name in RECIPES for leaf in leaves(get_recipe(name).model_dump(mode="json"))}))


@pytest.mark.parametrize(
    "override", ["ema.posthoc={}", 'optimizer.phase_learning_rates={"generator": 1e-3}', "system.guide_images=3"]
)
def test_what_a_recipe_leaves_out_may_be_given(override: str) -> None:
    check_overrides([override])


def test_a_key_of_no_row_is_rejected() -> None:
    with pytest.raises(UsageError, match="did you mean 'guide_images'"):
        check_overrides(["system.guide_image=3"])
