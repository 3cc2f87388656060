"""Several runs on one page, the command that makes a run again, and ``undiffuse report`` from the command line."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from report_parts import (
    EVALUATION,
    RECORD,
    Page,
    check_self_contained,
    log_rows,
    material_of,
    quality_rows,
    random_images,
)

from undiffuse.api import reporting
from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.runs import configure, placed
from undiffuse.api.reporting import found_studies
from undiffuse.api.reproducing import reproducing_command
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.reports import render_comparison
from undiffuse.reports.compare import config_differences, metric_lines, notes, overview


def other_record(**config: Any) -> dict[str, Any]:
    return {**RECORD, "config": {**RECORD["config"], **config}}


def two() -> list[Any]:
    """Two runs that differ in their seed and in what they were evaluated with."""
    results = [{**EVALUATION["results"][0], "value": 3.5}, {"metric": "coverage", "value": 0.5, "uncertainty": None}]
    second = material_of(
        name="other",
        record=other_record(seed=4),
        metrics_log=[*log_rows(60), *quality_rows(count=3)],
        evaluation={"results": results},
        findings=[{"severity": "warning", "title": "a"}, {"severity": "warning", "title": "b"}],
    )
    return [material_of(), second]


def test_two_runs_stand_side_by_side_on_one_page() -> None:
    html = render_comparison(two())
    page = Page(html)
    check_self_contained(page, html)
    assert {"overview", "samples", "loss", "quality", "metrics", "studies", "config", "reproduce"} <= set(page.ids)
    assert len([a for a in page.addresses if a.startswith("data:image/")]) == 2 + 1  # the data is the same
    for text in ("demo and other", "Validation loss, EMA weights", "Training loss", "Fréchet distance (handwriting)",
                 "2 warnings", "1 problem", "undiffuse train ddpm-digits seed=3"):  # fmt: skip
        assert text in page.text
    assert page.text.count("system.process.num_steps") == 0 and "seed" in page.text


def test_each_run_has_its_own_colour_in_every_chart() -> None:
    html = render_comparison(two())
    for chart in html.split('<div class="plot wide"')[1:]:
        svg = chart.split("</svg>")[0]
        assert "var(--run0)" in svg and "var(--run1)" in svg
    assert "var(--run2)" not in html.split("</style>")[1]


def test_metrics_are_lines_with_a_cell_a_run_and_report_where_protocols_differ() -> None:
    lines = {line.name: line for line in metric_lines(two())}
    assert [cell.value for cell in lines["Variational bound"].cells] == ["2.813", "3.500"]
    assert [cell.value for cell in lines["Coverage"].cells] == ["–", "0.5"]
    protocols = [
        {"split": "held out", "images": images, "samples": {"sampler": name}}
        for images, name in ((64, "heun"), (32, "ddim"))
    ]
    rows = [{"metric": "vlb", "value": 1.0, "uncertainty": 0.1, "protocol": protocol} for protocol in protocols]
    (line,) = metric_lines([material_of(evaluation={"results": [row]}) for row in rows])
    assert line.differs == "images"  # the sampler is what the runs are, not how they were measured
    (same,) = metric_lines([material_of(evaluation={"results": [rows[0]]})] * 2)
    assert same.differs == ""


def test_only_differences_of_the_configuration_are_listed() -> None:
    a, b = {"seed": 1, "optimizer": {"name": "adam", "eps": 1}}, {"seed": 1, "optimizer": {"name": "muon"}}
    assert config_differences([a, b]) == [("optimizer.name", ["adam", "muon"]), ("optimizer.eps", ["1", "–"])]
    assert config_differences([a, a]) == []


def test_what_does_not_compare_is_reported() -> None:
    first = material_of()
    assert notes([first, first]) == []
    other_data = replace(first, record={**RECORD, "data": {"fingerprint": "other"}})
    assert "different data" in notes([first, other_data])[0]
    shape = replace(first, record={**RECORD, "model": {"shape": [3, 16, 16], "class_names": []}})
    assert "different shapes (8 × 8 pixels, grey, 16 × 16 pixels, colour)" in notes([first, shape])[0]
    system = {**RECORD["config"]["system"], "parameterization": "v"}
    assert "losses are not the same quantity" in notes([first, replace(first, record=other_record(system=system))])[0]


def test_runs_whose_images_were_stored_with_more_are_distinguished() -> None:
    known = {"plain": {}, "deep": {"bit_depth": "12 images of more than 8 bits a value, each rounded to 8"}}
    plain, deeper = (
        material_of(name=name, record={**RECORD, "data": {**RECORD["data"], "stored_with": stored}})
        for name, stored in known.items()
    )
    (line,) = notes([plain, deeper])
    assert line == f"deep was trained on {known['deep']['bit_depth']}; the images of plain had none."
    assert notes([deeper, deeper]) == notes([deeper, material_of()]) == []  # a run of before does not know


def test_runs_of_different_shapes_and_kinds_still_stand_side_by_side() -> None:
    points = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    record = {**RECORD, "model": {"shape": [2], "class_names": []}, "data": {"fingerprint": "p", "train": 10}}
    colour = {**RECORD, "model": {"shape": [3, 16, 12], "class_names": []}, "data": {"fingerprint": "c"}}
    materials = [
        material_of(filmstrip=None, filmstrip_labels=[]),
        material_of(name="plane", record=record, samples=points, data=points, filmstrip=None, filmstrip_labels=[]),
        material_of(
            name="colour", record=colour, samples=random_images(8, 3, 16, 12), data=random_images(0, 3, 16, 12)
        ),
    ]
    html = render_comparison(materials)
    page = Page(html)
    check_self_contained(page, html)
    assert "different shapes" in page.text and "Real data of plane" in html
    assert dict(overview(materials))["Seen"] == ["11,520"] * 3


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=7", "num_images=999", "data.validation_fraction=0.2"],
        [
            "system.time_density=uniform",
            "system.process=cosine",
            "optimizer.clip_norm=null",
            "system.class_conditional=false",
        ],
        [
            "system.network=transformer",
            "system.network.num_heads=2",
            "system.weighting=min_snr",
            "system.weighting.gamma=3.5",
        ],
        ["optimizer.betas=[0.5,0.9]", "optimizer.name=adamw", "compile=true", "ema.rampup=null"],
        ["data=swissroll", "system.network=mlp", "system.class_conditional=false", "quality_every_images=0"],
    ],
)
def test_the_command_gives_the_same_configuration(overrides: list[str]) -> None:
    wanted = apply_overrides(get_recipe("ddpm-digits"), overrides)
    words = shlex.split(reproducing_command({"config": wanted.model_dump(mode="json")}))
    assert words[:3] == ["undiffuse", "train", "ddpm-digits"]
    assert configure(words[2], words[3:], None, None, False) == wanted
    assert bool(words[3:]) == bool(overrides)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_plain_recipe_needs_no_overrides(recipe: str) -> None:
    record = {"config": get_recipe(recipe).model_dump(mode="json")}
    assert reproducing_command(record) == f"undiffuse train {recipe}"


def test_odd_words_survive_the_shell(tmp_path: Path) -> None:
    for location in ("a b", "10", "null", "it's", "ünï"):
        config = apply_overrides(get_recipe("ddpm-mnist"), [f"data.path={json.dumps(location)}"])
        words = shlex.split(reproducing_command({"config": config.model_dump(mode="json")}))
        assert configure(words[2], words[3:], None, None, False) == placed(config)


def test_a_run_of_no_known_recipe_has_no_command() -> None:
    config = get_recipe("ddpm-digits").model_dump(mode="json")
    assert reproducing_command({"config": {**config, "recipe": "mine"}}) == ""
    assert reproducing_command({"config": {**config, "unheard": 1}}) == ""


def test_studies_are_found_in_the_run_next_to_it_and_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, here = tmp_path / "runs" / "demo", tmp_path / "here"
    for folder in (run / "studies" / "a", tmp_path / "runs" / "studies" / "b-demo", here / "studies" / "c-demo",
                   here / "studies" / "d-demo2", here / "studies" / "e-other"):  # fmt: skip
        folder.mkdir(parents=True)
        (folder / "study.json").write_text(json.dumps({"study": folder.name}))
    (here / "studies" / "f-demo").mkdir()
    (here / "studies" / "f-demo" / "study.json").write_text("{")  # left out, with a note
    monkeypatch.chdir(here)
    assert [study.name for study in found_studies(run)] == ["a", "b-demo", "c-demo"]


def test_report_writes_one_page_or_a_comparison(
    trained: Path, trained_points: Path, undiffuse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for count in ("_SHOWN", "_COMPARED", "_SHOWN_POINTS"):
        monkeypatch.setattr(reporting, count, 16)
    shutil.copytree(trained, tmp_path / "a")
    (tmp_path / "a" / "doctor.json").write_text('{"findings": [{"severity": "warning", "title": "Too young"}]}')
    undiffuse.fine("report", "a")
    text = Page((tmp_path / "a" / "report.html").read_text(encoding="utf-8")).text
    assert "Too young" in text and "undiffuse train ddpm-digits" in text and "Noise levels drawn" in text
    assert "comparison.html" in undiffuse.fine("report", "a", trained_points).out
    text = Page((tmp_path / "comparison.html").read_text(encoding="utf-8")).text
    assert "a and tiny" in text and "different shapes" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "comparison.html"]


def test_what_report_rejects(trained: Path, undiffuse: CommandLine, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "young")
    (tmp_path / "young" / "model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert "no model.safetensors yet" in undiffuse.rejected("report", tmp_path / "young")
    assert "not a run or model folder" in undiffuse.rejected("report", trained, tmp_path / "empty")
    assert "more than once" in undiffuse.rejected("report", trained, trained)
    assert "is a folder" in undiffuse.rejected("report", trained, "--out", tmp_path)
    assert "cannot write" in undiffuse.rejected("report", trained, "--out", tmp_path / "file" / "page.html")
    assert "holds no study" in undiffuse.rejected("report", trained, "--study", tmp_path / "empty")
    for name in ("doctor.json", "evaluation.json"):
        shutil.copytree(trained, tmp_path / name[:3])
        (tmp_path / name[:3] / name).write_text("{")
        assert f"{name} is damaged" in undiffuse.rejected("report", tmp_path / name[:3])
