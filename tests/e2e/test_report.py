"""The report of a run: one page that needs nothing but itself, whatever of a run there is to show."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_parts import (
    EVALUATION,
    RECORD,
    Page,
    bare,
    check_self_contained,
    log_rows,
    material_of,
    quality_rows,
    random_images,
    schedule,
)

from undiffuse.errors import RunError, UsageError
from undiffuse.images import save_png
from undiffuse.reports import ReportMaterial, Study, read_study, render, write_report
from undiffuse.reports.curves import curve, drift_curves, level_curves, quality_curve
from undiffuse.reports.figures import moving_mean, needs_log_axis, short, thinned
from undiffuse.reports.images import PREVIEW_BYTES, EmbeddedImage, embed, spread
from undiffuse.reports.metrics_table import metrics_of, with_uncertainty
from undiffuse.reports.wording import duration, flattened, headline, number, progress_of

SECTIONS = (
    *("doctor", "samples", "filmstrip", "loss", "quality", "previews", "metrics", "schedule", "studies"),
    *("config", "reproduce", "commands"),
)


@pytest.fixture
def material() -> ReportMaterial:
    return material_of()


@pytest.fixture(scope="module")
def whole_page() -> str:
    """The page of that material, whose nine charts take a second."""
    return render(material_of())


def test_page_is_one_small_file_that_needs_no_other(material: ReportMaterial, tmp_path: Path) -> None:
    for images in (1000, 2000, 3000):
        save_png(tmp_path / "previews" / f"images_{images:012d}.png", random_images(1, 40, 40))
    full = replace(material, previews=tmp_path / "previews", studies=[read_study(study_folder(tmp_path / "s"))])
    path = write_report(tmp_path / "report.html", full)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    check_self_contained(page, html)
    assert path == tmp_path / "report.html" and path.stat().st_size < 500_000
    assert set(SECTIONS) <= set(page.ids)
    assert len([a for a in page.addresses if a.startswith("data:image/")]) == 2 + 3 + 3 + 1
    for text in ("ddpm-digits", "t = 0.50", "validation, EMA weights", "2.813", "± 0.021", "Fréchet distance (pixels)",
                 "1000 samples", "system.process.num_steps", "undiffuse sample runs/demo -n 64", "2,000 images",
                 "2 cores", "0.1.0", "fc1bf5a5", "11,520", "the value axis is logarithmic", "Mean colour", "Contrast",
                 "Fréchet distance (handwriting)", "200 samples against 1,596 training items", "copies",
                 "undiffuse train ddpm-digits seed=3", "1 check found no problem", "A study of one thing.",
                 "Noise levels drawn"):  # fmt: skip
        assert text in page.text
    assert "missing" not in re.findall(r'class="([^"]*)"', html)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["previews", "report.html", "s"]


def study_folder(folder: Path, image: np.ndarray | None = None, count: int = 1) -> Path:
    """A study as ``undiffuse study`` leaves it."""
    names, page = [f"figure{number}.png" for number in range(count)], "# one: a study\n\n"
    for name in names:
        save_png(folder / name, random_images(3, 40, 60) if image is None else image)
        page += f"## Figure\n\n![Figure]({name})\n\nA study of one thing.\n\nFormula: a.\n\nSource: b.\n\n"
    (folder / "README.md").write_text(page)
    figures = {
        name: {"title": f"Figure of {name}", "error_nats": 0.123456, "levels": [1, 2], "good": True} for name in names
    }
    content = {"study": "one", "summary": "a study", "model": {"weights_sha256": "abc"}, "pictures": figures}  # data
    (folder / "study.json").write_text(json.dumps(content))
    return folder


def test_a_study_is_read_with_its_captions_and_numbers(tmp_path: Path) -> None:
    study = read_study(study_folder(tmp_path, count=2))
    assert study[:3] == ("one", "a study", "abc")
    assert [(one.path.name, one.caption, one.numbers) for one in study.figures] == [
        (f"figure{number}.png", "A study of one thing.", [("error nats", "0.1235")]) for number in range(2)
    ]
    (tmp_path / "figure0.png").unlink()
    (tmp_path / "README.md").unlink()
    assert [(one.title, one.caption) for one in read_study(tmp_path).figures] == [("Figure of figure1.png", "")]


@pytest.mark.parametrize("content", ["{", "[]", '{"pictures": {"a": 1}}'])  # data
def test_a_damaged_study_is_rejected_in_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(UsageError, match="is damaged"):
        read_study(tmp_path)


def test_a_study_may_name_no_file_outside_its_folder(tmp_path: Path) -> None:
    save_png(tmp_path / "secret.png", random_images(3, 8, 8))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").write_text(json.dumps({"study": "one", "pictures": {"../secret.png": {}}}))  # data
    assert read_study(tmp_path / "s").figures == []


def test_a_study_of_other_weights_reports_so(tmp_path: Path) -> None:
    study = read_study(study_folder(tmp_path))
    for weights, message in (("abc", False), ("xyz", True)):
        evaluation = {**EVALUATION, "model": {"weights_sha256": weights}}
        text = Page(render(replace(bare(), studies=[study], evaluation=evaluation))).text
        assert ("used other weights" in text) == message


def test_quality_is_drawn_with_its_errors_and_the_data_with_it() -> None:
    rows = [*quality_rows(), *quality_rows("other")]
    one = quality_curve(rows, "frechet_handwriting", "a", "#000")
    assert one.x.tolist() == [2304, 4608, 6912, 9216, 11520]
    assert one.y.tolist() == pytest.approx([20, 10, 20 / 3, 5, 4])
    assert one.error is not None and one.error.tolist() == pytest.approx([0.5, 0.25, 0.5 / 3, 0.125, 0.1])
    colour = [{**row, "mean": [1.0, 2.0, row["mean"][0]], "data_mean": [4.0, 5.0, 6.0]} for row in quality_rows()]
    drift = drift_curves(colour)
    assert [(line.label, line.y[0], line.dashed) for line in drift["Mean colour"]] == [
        *(("samples, red", 1.0, False), ("data, red", 4.0, True), ("samples, green", 2.0, False)),
        *(("data, green", 5.0, True), ("samples, blue", 89.0, False), ("data, blue", 6.0, True)),
    ]
    assert [line.y[-1] for line in drift["Contrast"]] == [85.0, 96.0]


def test_epochs_stand_above_the_quality_curve() -> None:
    html = render(replace(bare(), record=RECORD, metrics_log=quality_rows()))
    svg = re.search(r"<section id=\"quality\">.*?</svg>", html, flags=re.DOTALL)
    assert svg is not None
    ticks = set(re.findall(r">([0-9.k]+)</text>", svg[0]))
    assert {"2", "4", "6"} <= ticks  # passes: 11,520 images are 7.2 of 1,596
    without = render(replace(bare(), record={**RECORD, "data": {}}, metrics_log=quality_rows()))
    assert "epochs" in html and "epochs" not in without


def test_a_flat_weight_draws_no_share_of_its_own() -> None:
    flat = schedule()._replace(weight=np.ones(40))
    assert [len(lines) for lines in level_curves(flat).values()] == [1, 1]
    assert [len(lines) for lines in level_curves(schedule()).values()] == [2, 1]
    assert level_curves(schedule()._replace(weight=np.empty(0))).keys() == {"Noise levels drawn"}


def test_same_material_gives_the_same_bytes(material: ReportMaterial, whole_page: str) -> None:
    assert render(material) == whole_page


def test_plots_take_their_colours_from_the_page(whole_page: str) -> None:
    html = whole_page
    css = (Path(sys.modules["undiffuse.reports"].__path__[0]) / "templates" / "run.css").read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", html))
    light, dark = css.split("prefers-color-scheme: dark", 1)
    for variable in used:
        assert f"{variable}:" in light and f"{variable}:" in dark
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert not re.search(r"(?:fill|stroke): #", drawn)


def test_what_is_missing_is_reported_in_a_sentence() -> None:
    html = render(bare())
    page = Page(html)
    check_self_contained(page, html)
    for text in ("There are no samples to show.", "No filmstrip was saved", "contains no losses", "was not evaluated",
                 "No configuration was recorded", "No commands were given", "Quality was not measured",
                 "has no noise schedule", "No studies of this run", "The doctor has not examined",
                 "No command that reproduces this run is known", "No samples were saved"):  # fmt: skip
        assert text in page.text
    assert set(SECTIONS) <= set(page.ids)


def test_run_without_validation_reports_so(material: ReportMaterial) -> None:
    rows = [row for row in material.metrics_log if row["kind"] == "train"]
    text = Page(render(replace(material, metrics_log=rows, schedule=None))).text
    assert "had no validation" in text and "Validation loss" not in text


def test_points_are_shown_as_clouds(material: ReportMaterial) -> None:
    points = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    strip = np.stack([points * 80, points])  # a prior far wider than the data stays in the frame
    record = {**RECORD, "model": {"shape": [2], "class_names": []}}
    changes: Mapping[str, Any] = {"samples": points, "data": points, "filmstrip": strip, "filmstrip_labels": ["1", "0"]}
    html = render(replace(material, schedule=None, record=record, **changes))
    page = Page(html)
    check_self_contained(page, html)
    assert "The cloud of points" in page.text and "points seen" in page.text
    first = [address for address in page.addresses if address.startswith("data:image/")][2]
    assert (np.asarray(Image.open(io.BytesIO(b64decode(first.split(",")[1])))) < 255).mean() > 0.01


PLACES = ("class", "recipe", "command", "label", "metric", "protocol", "hardware", "setting", "run", "finding", "study")


@pytest.mark.parametrize("place", PLACES)
def test_names_from_outside_cannot_write_html(material: ReportMaterial, place: str) -> None:
    evil = "</p><script>alert(1)</script><img src=x onerror=\"alert('2')\">"
    row = {"metric": evil if place == "metric" else "m", "value": 1.0, "unit": evil}
    row["protocol"] = {"note": evil, evil: 1} if place == "protocol" else {}
    config = {**RECORD["config"], "recipe": evil if place == "recipe" else "r", "extra": {evil: evil}}
    model = {"shape": [1, 8, 8], "class_names": [evil] if place == "class" else []}
    html = render(
        replace(
            material,
            metrics_log=[],
            schedule=None,
            record={**RECORD, "model": model, "config": config if place in ("recipe", "setting") else RECORD["config"]},
            commands={evil: evil} if place == "command" else {},
            filmstrip_labels=[evil if place == "label" else "t"] * 3,
            evaluation={"results": [row]},
            hardware=evil if place == "hardware" else "",
            name=evil if place == "run" else "",
            findings=[{"severity": evil, "title": evil, "evidence": evil}] if place == "finding" else None,
            studies=[Study(evil, evil, "", [])] if place == "study" else [],
            reproduce=evil,
        )
    )
    check_self_contained(Page(html), html)
    assert evil not in html and "onerror=&#34;" in html


def test_page_stays_under_five_megabytes_with_the_largest_images(material: ReportMaterial, tmp_path: Path) -> None:
    """Noise does not compress: the worst case of every image at once, and a long metrics log."""
    for images in range(7):
        save_png(tmp_path / "previews" / f"images_{images}.png", random_images(3, 300, 300))
    noisy = study_folder(tmp_path / "s", random_images(3, 500, 800), 6)
    big = random_images(16, 3, 256, 256)
    strip = np.broadcast_to(big[:4], (14, 4, 3, 256, 256))
    labels = [str(k) for k in range(14)]
    changes: Mapping[str, Any] = {"samples": big, "data": big, "filmstrip": strip, "filmstrip_labels": labels}
    changes = {**changes, "augmentation": random_images(3, 1500, 4000)}
    path = write_report(
        tmp_path / "report.html",
        replace(
            material,
            metrics_log=log_rows(5000),
            schedule=None,
            previews=tmp_path / "previews",
            studies=[read_study(noisy)] * 2,
            **changes,
        ),
    )
    html = path.read_text(encoding="utf-8")
    assert 1_000_000 < len(html.encode()) < 5_000_000
    assert len([a for a in Page(html).addresses if a.startswith("data:image/")]) == 2 + 1 + 12 + 6 + 12


def test_augmented_images_are_shown_where_there_are_any(material: ReportMaterial, whole_page: str) -> None:
    assert "augmentation" not in Page(whole_page).ids
    columns = ["as it is", "flip", *["all together"] * 5]
    augmented = replace(material, metrics_log=[], schedule=None, augmentation_columns=columns)
    html = render(replace(augmented, augmentation=random_images(3, 60, 200)))
    page = Page(html)
    check_self_contained(page, html)
    assert "augmentation" in page.ids
    assert "as it is, flip, all together (5 times)" in page.text


def test_too_much_text_is_rejected_and_leaves_nothing(material: ReportMaterial, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at most 5,000,000"):
        write_report(
            tmp_path / "report.html", replace(material, metrics_log=[], schedule=None, commands={"a": "x" * 5_000_000})
        )
    assert list(tmp_path.iterdir()) == []


def test_broken_previews_are_left_out(material: ReportMaterial, tmp_path: Path) -> None:
    save_png(tmp_path / "images_000000000010.png", random_images(1, 9, 9))
    (tmp_path / "images_000000000020.png").write_bytes((tmp_path / "images_000000000010.png").read_bytes()[:60])
    (tmp_path / "images_000000000030.png").write_bytes(b"")
    text = Page(render(replace(material, metrics_log=[], schedule=None, previews=tmp_path))).text
    assert "10 images" in text and "20 images" not in text and "30 images" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": np.zeros((4, 1, 8, 8), np.float32)}, "samples .* uint8 .* float32"),
        ({"data": np.zeros((4, 2, 8, 8), np.uint8)}, "data .* 1 or 3 channels"),
        ({"filmstrip": np.zeros((3, 1, 8, 8), np.uint8)}, "filmstrip .*K, N, C, H, W"),
        ({"filmstrip_labels": ["only one"]}, "each of the 3 frames .* got 1"),
    ],
)
def test_material_of_another_shape_is_rejected(material: ReportMaterial, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(material, **change)


def test_images_keep_their_pixels_within_the_budget() -> None:
    array = random_images(3, 40, 30)
    exact = embed(Image.fromarray(array.transpose(1, 2, 0)), "a", 100_000)
    back = Image.open(io.BytesIO(b64decode(exact.uri.split(",")[1])))
    assert np.array_equal(np.asarray(back), array.transpose(1, 2, 0)) and exact[1:] == ("a", 30, 40, False, False)
    tight: EmbeddedImage = embed(Image.fromarray(random_images(600, 600)), "b", PREVIEW_BYTES)
    assert len(tight.uri) <= PREVIEW_BYTES * 4 / 3 + 40 and tight.uri.startswith(("data:image/webp", "data:image/jpeg"))


def test_curves_leave_out_what_is_not_a_number() -> None:
    rows = [{"kind": "train", "images": n, "loss": y} for n, y in enumerate([1.0, float("nan"), None, 0.5])]
    rows += [{"kind": "validation", "images": 9, "loss": 7.0}, {"kind": "train", "images": 10}]
    one = curve(rows, "train", "loss", "a", "#000")
    assert one.x.tolist() == [0, 3] and one.y.tolist() == [1.0, 0.5]
    assert not needs_log_axis([one]) and needs_log_axis([one._replace(y=one.y**4)])


def test_smoothing_bends_no_line_and_thinning_keeps_the_mean() -> None:
    line = np.arange(1000.0)
    assert np.allclose(moving_mean(line, 31), line)
    x, y = thinned(line, line**2, 100)
    assert len(x) == 100 and np.isclose(y.mean(), (line**2).mean())


def test_numbers_read_well() -> None:
    assert [short(n) for n in (0, 12500, 2e6, 0.5, 5e-4)] == ["0", "12.5k", "2M", "0.5", "5e-4"]
    assert [duration(s) for s in (3.21, 42.4, 75, 7500)] == ["3.2 s", "42 s", "1 min 15 s", "2 h 5 min"]
    assert [number(n) for n in (0.123456, 12345.6, 7, "a", [1], float("nan"))] == [
        "0.1235",
        "12,346",
        "7",
        "a",
        "[1]",
        "nan",
    ]
    assert with_uncertainty(14.2371, 0.83) == ("14.24", "0.83") and with_uncertainty(1234.5, 56.7) == ("1,234", "57")
    assert with_uncertainty(None, 1) == ("–", "") and with_uncertainty(0.98765, None) == ("0.9877", "")
    assert spread(0, 6) == [] and spread(3, 6) == [0, 1, 2] and spread(100, 3) == [0, 50, 99]
    assert dict(flattened({"a": {"b": [1, 2], "c": {}}, "d": None})) == {"a.b": "[1, 2]", "a.c": "{}", "d": "null"}


def test_headline_reports_what_was_created_of_what() -> None:
    measured = [str(metric) for metric in metrics_of(EVALUATION) if not metric.part]
    assert headline(RECORD, progress_of(RECORD, log_rows()), measured) == (
        "A diffusion model (linear_vp process, eps prediction, unet network) trained on 1,596 images of digits "
        "(8 × 8 pixels, grey, 2 classes). It saw 11,520 images (7.22 passes) in 45 s and ended at a validation loss of "
        "0.1278. Measured: variational bound 2.813 ± 0.021, Fréchet distance (pixels) 14.24 ± 0.83."
    )


def test_importing_the_report_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'matplotlib', 'jinja2', 'scipy', 'sklearn', 'PIL'}"
    code = f"import sys, undiffuse.reports; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
