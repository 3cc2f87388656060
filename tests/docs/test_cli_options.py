"""The commands and options that the documentation promises exist."""

from __future__ import annotations

import pytest

from undiffuse.cli.main import main
from undiffuse.data.download import SETS
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.recipes import RECIPES
from undiffuse.samplers import SAMPLERS
from undiffuse.samplers.grids import GRIDS
from undiffuse.studies import MODEL_STUDIES, STUDIES

PROMISED = {
    "": [
        *("demo", "train", "sample", "evaluate", "compare", "invert", "report", "doctor"),
        *("distill", "export", "ema", "seal", "models", "recipes", "samplers", "data", "study"),
        *("--debug", "--version", "--install-completion", "--show-completion"),
    ],
    "demo": ["--out", "--device"],
    "train": [
        "RECIPE",
        "KEY=VALUE",
        "--data",
        "--config",
        "--out",
        "--resume",
        "--stop-after",
        "--dry-run",
        "--device",
    ],
    "sample": [
        *("MODEL", "-n", "--num", "--sampler", "--steps", "--grid", "--seed", "--batch-size", "--class"),
        *("--process", "--weights", "--progressive", "--out", "--device", "--overwrite"),
        *("--guidance", "--guidance-interval", "--autoguidance", "--cache-interval"),
        *("--autoguidance-interval", "--temperature"),
    ],
    "distill": [
        *("MODEL", "KEY=VALUE", "--steps", "--method", "--data", "--out", "--resume", "--stop-after", "--dry-run"),
        "--device",
    ],
    "export": [
        *("MODEL", "--out", "--tune-steps", "--sampler", "--tolerance", "--seeds", "--bf16", "--int8", "--overwrite"),
        *("--weights", "--device", "--temperature"),
    ],
    "ema": ["RUN", "--sigma-rel", "--out", "--overwrite"],
    "seal": ["MODEL", "--restore"],
    "evaluate": [
        *(
            "MODEL",
            "KEY=VALUE",
            "--data",
            "--metrics",
            "--num",
            "--out",
            "--sampler",
            "--steps",
            "--grid",
            "--seed",
            "--batch-size",
        ),
        "--temperature",
        *("--features", "--bound-images", "--bound-random-images", "--likelihood-images", "--likelihood-probes"),
        *("--process", "--weights", "--device", "--no-cache"),
    ],
    "compare": ["A", "B", "KEY=VALUE", "--metrics", "--num", "--counts", "--features", "--size", "--out", "--no-cache"],
    "invert": [
        "MODEL",
        "SRC",
        "KEY=VALUE",
        "--out",
        "-n",
        "--sampler",
        "--steps",
        "--overwrite",
        "--weights",
        "--device",
    ],
    "study": list(STUDIES),
    "study theory": ["MODEL", "--out", "--process", "--num", "--seed", "--weights", "--device"],
    "study parameterization": ["KEY=VALUE", "--data", "--out", "--images", "--num", "--seed", "--device"],
    "study one-class": [
        *("KEY=VALUE", "--data", "--classes", "--recipe", "--images", "--num", "--features", "--out", "--seed"),
        "--device",
    ],
    "study small-data": [
        *("KEY=VALUE", "--data", "--recipe", "--augment", "--images", "--epochs", "--every", "--out", "--seed"),
        "--device",
    ],
    **{
        f"study {name}": ["MODEL", "KEY=VALUE", "--out", "--data", "--seed", "--weights", "--device"]
        for name in MODEL_STUDIES
    },
    "report": ["MODEL", "--out", "--study", "--data", "--device"],
    "doctor": [
        "DATA|RUN",
        "KEY=VALUE",
        "--recipe",
        "--data",
        "--against",
        "--near",
        "--num",
        "--seed",
        "--json",
        "--strict",
        "--device",
    ],
    "models": ["NAME", "--json"],
    "recipes": [],
    "samplers": [],
    "data": ["list", "info", "prepare", "get"],
    "data list": [],
    "data info": ["SRC", "KEY=VALUE", "--grid", "--augment", "--recipe"],
    "data prepare": [
        *("SRC", "KEY=VALUE", "--out", "--size", "--fit", "--channels", "--background", "--upscale", "--classes"),
        *("--filter", "--keep-duplicates", "--on-error", "--workers", "--overwrite"),
    ],
    "data get": ["NAME", "--out"],
}


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", PROMISED)
def test_a_command_has_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *command.split(), "--help")
    assert [word for word in PROMISED[command] if word not in text] == []


def test_lists_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in shown(capsys, "recipes").splitlines()] == list(RECIPES)
    samplers = shown(capsys, "samplers").splitlines()
    assert [line.split()[0] for line in samplers[:-1]] == list(SAMPLERS)
    assert all(grid in samplers[-1] for grid in GRIDS)
    assert [line.split()[0] for line in shown(capsys, "data", "list").splitlines()] == list(SOURCE_CONFIGS)
    assert [line.split()[0] for line in shown(capsys, "data", "get").splitlines()[:-1]] == list(SETS)


def test_the_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in shown(capsys, "study").splitlines()] == list(STUDIES)


def test_data_info(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "data", "info", "digits")
    assert "1,797" in text and "fingerprint" in text


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_without_a_command_there_is_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out.startswith("Usage") and not output.err
