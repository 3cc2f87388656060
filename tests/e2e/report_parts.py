"""What the tests of the report share: a run in plain values, and a reader of pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from undiffuse.evaluation.schedule import Schedule
from undiffuse.reports import ReportMaterial

VOID = {"meta", "link", "img", "br", "use", "path", "wbr"}

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


def log_rows(count: int = 90) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        wall = {"seconds": step * 0.5, "images_per_second": 1000.0}
        numbers = {"loss": 2.0 / step + 0.1, "grad_norm": 1.0, "learning_rate": 1e-3}
        rows.append({"kind": "train", "images": step * 128, **numbers, "wall": wall})
        if step % 10 == 0:
            losses = {"loss": 2.5 / step + 0.1, "loss_raw": 2.2 / step + 0.1}
            rows.append({"kind": "validation", "images": step * 128, **losses, "wall": {"seconds": step * 0.5}})
    return rows


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def quality_rows(metric: str = "frechet_handwriting", count: int = 5) -> list[dict[str, Any]]:
    """Rows that a run with measurements leaves."""
    return [
        {
            "kind": "quality",
            "images": 2304 * number,
            "metric": metric,
            "value": 20.0 / number,
            "standard_error": 0.5 / number,
            "samples": 200,
            "reference": 1596,
            "mean": [90.0 - number],
            "contrast": 80.0 + number,
            "data_mean": [78.0],
            "data_contrast": 96.0,
            "wall": {"seconds": 9.0 * number, "measuring_seconds": 1.0},
        }
        for number in range(1, count + 1)
    ]


def schedule() -> Schedule:
    """The flow's, with times drawn evenly."""
    t, level = np.linspace(0.01, 0.99, 50), np.linspace(-10, 10, 40)
    density = np.exp(level / 2) / (1 + np.exp(level / 2)) ** 2 / 2
    weight = (1 + np.exp(-level / 2)) ** 2
    return Schedule(t, 1 - t, t, 2 * np.log((1 - t) / t), level, density, weight / weight.max())


def material_of(**changes: Any) -> ReportMaterial:
    """A run with everything that a page can show but studies and previews."""
    values: dict[str, Any] = {
        "record": RECORD,
        "metrics_log": [*log_rows(), *quality_rows()],
        "samples": random_images(16, 1, 8, 8),
        "data": random_images(16, 1, 8, 8),
        "name": "demo",
        "filmstrip": random_images(3, 4, 1, 8, 8),
        "filmstrip_labels": ["t = 1.00", "t = 0.50", "t = 0.00"],
        "evaluation": EVALUATION,
        "schedule": schedule(),
        "findings": [{"severity": "ok", "title": "fine"}, {"severity": "problem", "title": "copies", "advice": "more"}],
        "reproduce": "undiffuse train ddpm-digits seed=3",
        "commands": {"More samples": "undiffuse sample runs/demo -n 64"},
        "hardware": "2 cores",
        "version": "0.1.0",
    }
    return ReportMaterial(**{**values, **changes})


def bare() -> ReportMaterial:
    return ReportMaterial(record={}, metrics_log=[], samples=random_images(0, 1, 8, 8), data=random_images(0, 1, 8, 8))


def check_self_contained(page: Page, html: str) -> None:
    assert not page.open
    assert "script" not in page.tags and "iframe" not in page.tags
    assert [a for a in page.addresses if not a.startswith(("data:", "#"))] == []
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert len(page.ids) == len(set(page.ids))
