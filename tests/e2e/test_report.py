"""The report of a run: one page that needs nothing but itself, whatever of a run there is to show."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from undiffuse.errors import RunError, UsageError
from undiffuse.images import save_png
from undiffuse.report import ReportMaterial, render, write_report
from undiffuse.report.figures import curve, moving_mean, short, thinned, wants_log
from undiffuse.report.measures import metrics_of, with_uncertainty
from undiffuse.report.pictures import PREVIEW_BYTES, Picture, embed, spread
from undiffuse.report.wording import duration, flattened, headline, number, progress_of

SECTIONS = ("samples", "filmstrip", "loss", "metrics", "config", "commands")
VOID = {"meta", "link", "img", "br", "use", "path"}

RECORD: dict[str, Any] = {
    "format_version": 1,
    "model": {"shape": [1, 8, 8], "class_names": ["zero", "one"]},
    "data": {"fingerprint": "fc1bf5a5", "train": 1596, "validation": 201},
    "config": {
        "recipe": "ddpm-digits",
        "seed": 3,
        "data": {"name": "digits"},
        "system": {
            "name": "diffusion",
            "class_conditional": True,
            "process": {"name": "linear_vp", "num_steps": 200},
            "parameterization": "eps",
            "network": {"name": "unet", "multipliers": [1, 2]},
        },
        "optimizer": {"name": "adam", "learning_rate": 0.001},
        "batch_images": 128,
    },
}
PROTOCOL = {"extractor": "pixels", "data_fingerprint": "fc1b", "samples": {"num": 1000, "sampler": "heun", "nfe": 19}}
EVALUATION = {
    "results": [
        {
            "metric": "vlb",
            "value": 2.81347,
            "uncertainty": 0.0213,
            "unit": "bits/dim",
            "better": "lower",
            "protocol": {},
        },
        {
            "metric": "vlb_prior",
            "value": 1e-4,
            "uncertainty": None,
            "unit": "bits/dim",
            "better": "lower",
            "protocol": {},
        },
        {"metric": "frechet_pixels", "value": 14.237, "uncertainty": 0.83, "unit": "", "protocol": PROTOCOL},
    ]
}


class Page(HTMLParser):
    """What a browser would find: elements that balance, addresses, ids, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(attrs)

    def _note(self, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.addresses += [named[key] or "" for key in ("src", "href", "srcset", "action") if key in named]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def journal(count: int = 90) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        wall = {"seconds": step * 0.5, "images_per_second": 1000.0}
        numbers = {"loss": 2.0 / step + 0.1, "grad_norm": 1.0, "learning_rate": 1e-3}
        rows.append({"kind": "train", "images": step * 128, **numbers, "wall": wall})
        if step % 10 == 0:
            losses = {"loss": 2.5 / step + 0.1, "loss_raw": 2.2 / step + 0.1}
            rows.append({"kind": "validation", "images": step * 128, **losses, "wall": {"seconds": step * 0.5}})
    return rows


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def material() -> ReportMaterial:
    return ReportMaterial(
        record=RECORD,
        journal=journal(),
        samples=pictures(16, 1, 8, 8),
        data=pictures(16, 1, 8, 8),
        filmstrip=pictures(3, 4, 1, 8, 8),
        filmstrip_labels=["t = 1.00", "t = 0.50", "t = 0.00"],
        evaluation=EVALUATION,
        commands={"More samples": "undiffuse sample runs/demo -n 64"},
        hardware="2 cores",
        version="0.1.0",
    )


def bare() -> ReportMaterial:
    return ReportMaterial(record={}, journal=[], samples=pictures(0, 1, 8, 8), data=pictures(0, 1, 8, 8))


def check_self_contained(page: Page, html: str) -> None:
    assert not page.open
    assert "script" not in page.tags and "iframe" not in page.tags
    assert [a for a in page.addresses if not a.startswith(("data:", "#"))] == []
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))


def test_page_is_one_small_file_that_needs_no_other(material: ReportMaterial, tmp_path: Path) -> None:
    for images in (1000, 2000, 3000):
        save_png(tmp_path / "previews" / f"images_{images:012d}.png", pictures(1, 40, 40))
    path = write_report(tmp_path, material)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    check_self_contained(page, html)
    assert path == tmp_path / "report.html" and path.stat().st_size < 500_000
    assert set(SECTIONS) | {"previews"} <= set(page.ids)
    assert len([a for a in page.addresses if a.startswith("data:image/")]) == 2 + 3 + 3
    for text in ("ddpm-digits", "t = 0.50", "validation, EMA weights", "2.813", "± 0.021", "Fréchet distance (pixels)",
                 "1000 samples", "system.process.num_steps", "undiffuse sample runs/demo -n 64", "2,000 images",
                 "2 cores", "0.1.0", "fc1bf5a5", "11,520", "the loss axis is logarithmic"):  # fmt: skip
        assert text in page.text
    assert "missing" not in re.findall(r'class="([^"]*)"', html)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["previews", "report.html"]


def test_same_material_gives_the_same_bytes(material: ReportMaterial) -> None:
    assert render(material) == render(material)


def test_plots_take_their_colours_from_the_page(material: ReportMaterial) -> None:
    html = render(material)
    css = (Path(sys.modules["undiffuse.report"].__path__[0]) / "templates" / "run.css").read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[a-z]+)\)", html))
    light, dark = css.split("prefers-color-scheme: dark", 1)
    for variable in used:
        assert f"{variable}:" in light and f"{variable}:" in dark
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert not re.search(r"(?:fill|stroke): #", drawn)


def test_what_is_missing_is_said_in_a_sentence() -> None:
    html = render(bare())
    page = Page(html)
    check_self_contained(page, html)
    for text in ("There are no samples to show.", "No filmstrip was kept", "holds no losses", "was not evaluated",
                 "No configuration was recorded", "No commands were given"):  # fmt: skip
        assert text in page.text
    assert "previews" not in page.ids and set(SECTIONS) <= set(page.ids)


def test_run_without_validation_says_so(material: ReportMaterial) -> None:
    rows = [row for row in material.journal if row["kind"] == "train"]
    text = Page(render(replace(material, journal=rows))).text
    assert "made no validation" in text and "Validation loss" not in text


def test_points_are_shown_as_clouds(material: ReportMaterial) -> None:
    points = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    strip = np.stack([points * 80, points])  # a prior far wider than the data stays in the frame
    record = {**RECORD, "model": {"shape": [2], "class_names": []}}
    changes: Mapping[str, Any] = {"samples": points, "data": points, "filmstrip": strip, "filmstrip_labels": ["1", "0"]}
    html = render(replace(material, record=record, **changes))
    page = Page(html)
    check_self_contained(page, html)
    assert "The cloud of points" in page.text and "points seen" in page.text
    first = next(a for a in page.addresses[3:] if a.startswith("data:image/"))
    assert (np.asarray(Image.open(io.BytesIO(b64decode(first.split(",")[1])))) < 255).mean() > 0.01


@pytest.mark.parametrize("place", ["class", "recipe", "command", "label", "metric", "protocol", "hardware", "setting"])
def test_names_from_outside_cannot_write_html(material: ReportMaterial, place: str) -> None:
    evil = "</p><script>alert(1)</script><img src=x onerror=\"alert('2')\">"
    row = {"metric": evil if place == "metric" else "m", "value": 1.0, "unit": evil}
    row["protocol"] = {"note": evil, evil: 1} if place == "protocol" else {}
    config = {**RECORD["config"], "recipe": evil if place == "recipe" else "r", "extra": {evil: evil}}
    model = {"shape": [1, 8, 8], "class_names": [evil] if place == "class" else []}
    html = render(
        replace(
            material,
            journal=[],
            record={**RECORD, "model": model, "config": config if place in ("recipe", "setting") else RECORD["config"]},
            commands={evil: evil} if place == "command" else {},
            filmstrip_labels=[evil if place == "label" else "t"] * 3,
            evaluation={"results": [row]},
            hardware=evil if place == "hardware" else "",
        )
    )
    check_self_contained(Page(html), html)
    assert evil not in html and "onerror=&#34;" in html


def test_page_stays_under_five_megabytes_with_the_largest_pictures(material: ReportMaterial, tmp_path: Path) -> None:
    """Noise does not compress: the worst case of every picture at once, and a long journal."""
    for images in range(7):
        save_png(tmp_path / "previews" / f"images_{images}.png", pictures(3, 500, 500))
    big = pictures(16, 3, 256, 256)
    strip = np.broadcast_to(big[:4], (14, 4, 3, 256, 256))
    labels = [str(k) for k in range(14)]
    changes: Mapping[str, Any] = {"samples": big, "data": big, "filmstrip": strip, "filmstrip_labels": labels}
    path = write_report(tmp_path, replace(material, journal=journal(5000), **changes))
    html = path.read_text(encoding="utf-8")
    assert 1_000_000 < len(html.encode()) < 5_000_000
    assert len([a for a in Page(html).addresses if a.startswith("data:image/")]) == 2 + 12 + 6


def test_too_much_text_is_refused_and_leaves_nothing(material: ReportMaterial, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at most 5,000,000"):
        write_report(tmp_path, replace(material, commands={"a": "x" * 5_000_000}))
    assert list(tmp_path.iterdir()) == []


def test_broken_previews_are_left_out(material: ReportMaterial, tmp_path: Path) -> None:
    save_png(tmp_path / "images_000000000010.png", pictures(1, 9, 9))
    (tmp_path / "images_000000000020.png").write_bytes((tmp_path / "images_000000000010.png").read_bytes()[:60])
    (tmp_path / "images_000000000030.png").write_bytes(b"")
    text = Page(render(replace(material, journal=[]), tmp_path)).text
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
def test_material_of_another_shape_is_refused(material: ReportMaterial, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(material, **change)


def test_pictures_keep_their_pixels_within_the_budget() -> None:
    array = pictures(3, 40, 30)
    exact = embed(Image.fromarray(array.transpose(1, 2, 0)), "a", 100_000)
    back = Image.open(io.BytesIO(b64decode(exact.uri.split(",")[1])))
    assert np.array_equal(np.asarray(back), array.transpose(1, 2, 0)) and exact[1:] == ("a", 30, 40, False)
    tight: Picture = embed(Image.fromarray(pictures(600, 600)), "b", PREVIEW_BYTES)
    assert len(tight.uri) <= PREVIEW_BYTES * 4 / 3 + 40 and tight.uri.startswith("data:image/jpeg")


def test_curves_leave_out_what_is_not_a_number() -> None:
    rows = [{"kind": "train", "images": n, "loss": y} for n, y in enumerate([1.0, float("nan"), None, 0.5])]
    rows += [{"kind": "validation", "images": 9, "loss": 7.0}, {"kind": "train", "images": 10}]
    one = curve(rows, "train", "loss", "a", "#000")
    assert one.x.tolist() == [0, 3] and one.y.tolist() == [1.0, 0.5]
    assert not wants_log([one]) and wants_log([one._replace(y=one.y**4)])


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


def test_headline_says_what_was_made_of_what() -> None:
    measured = [str(metric) for metric in metrics_of(EVALUATION) if not metric.part]
    assert headline(RECORD, progress_of(journal()), measured) == (
        "A diffusion model (linear_vp process, eps prediction, unet network) trained on 1,596 images of digits "
        "(8 × 8 pixels, grey, 2 classes). It saw 11,520 images (7.22 passes) in 45 s and ended at a validation loss of "
        "0.1278. Measured: variational bound 2.813 ± 0.021, Fréchet distance (pixels) 14.24 ± 0.83."
    )


def test_importing_the_report_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'matplotlib', 'jinja2', 'scipy', 'sklearn', 'PIL'}"
    code = f"import sys, undiffuse.report; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
