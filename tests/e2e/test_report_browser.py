"""Both pages as a browser shows them: they ask nothing of the network, give no cause to complain, and fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_parts import RECORD, material_of, random_images

from undiffuse.images import save_png
from undiffuse.reports import ReportMaterial, Study, render, render_comparison
from undiffuse.reports.studies import SavedFigure

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LONG = "a_rather_long_name_of_a_run_without_any_space_in_it_2026"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra undiffuse[test])")
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def full(folder: Path) -> ReportMaterial:
    """A run with something in every section, and names that do not break."""
    for images in (1000, 2000, 3000):
        save_png(folder / "previews" / f"images_{images:012d}.png", random_images(1, 60, 60))
    save_png(folder / "figure.png", random_images(3, 300, 900))
    shown = [SavedFigure(folder / "figure.png", "Figure", "What it shows. " * 20, [("error", "0.1")] * 6)]
    return material_of(
        previews=folder / "previews",
        studies=[Study("forward", "a study", "", shown)],
        name=LONG,
        findings=[
            {"severity": kind, "title": "t " * 20, "evidence": LONG * 3} for kind in ("ok", "warning", "problem")
        ],
        commands={"go on": f"undiffuse sample runs/{LONG} " * 4},
        reproduce=f"undiffuse train ddpm-digits data.path=/{LONG}/{LONG}/{LONG}",
    )


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the two pages lie."""
    folder = tmp_path_factory.mktemp("pages")
    one = full(folder)
    config = {**RECORD["config"], "seed": 5, "data": {"name": "digits", "path": LONG * 3}}
    others = [replace(one, name=f"{LONG}-{k}", record={**RECORD, "config": config}, studies=[]) for k in range(4)]
    for name, html in (("run", render(one)), ("comparison", render_comparison([one, *others]))):
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in ("run", "comparison")}


WIDER = """() => [...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.right > innerWidth + 1 && !e.closest('.scroll, pre, svg, details');
}).map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("page_name", ["run", "comparison"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_fits_and_requests_for_nothing(
    browser: Any, addresses: dict[str, str], page_name: str, width: int, theme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    said: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(addresses[page_name])
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert said == []
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == [] and len(requested) >= 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(WIDER) == []
    assert page.evaluate("[...document.images].filter(one => !one.complete || !one.naturalWidth).length") == 0
    context.close()


@pytest.mark.parametrize("page_name", ["run", "comparison"])
def test_a_page_is_open_to_all(browser: Any, addresses: dict[str, str], page_name: str) -> None:
    """Alternative texts, headings in order, links that lead somewhere, and all that scrolls reachable by keyboard."""
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(addresses[page_name])
    assert page.evaluate("[...document.images].every(one => one.alt.length > 2)")
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("[...document.querySelectorAll('nav a')].every(one => document.querySelector(one.hash))")
    scrolls = "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
    scrolls += "['auto', 'scroll'].includes(getComputedStyle(e).overflowX))"
    assert page.evaluate(f"{scrolls}.length") > 0
    assert page.evaluate(f"{scrolls}.every(e => e.tabIndex === 0)")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert page.evaluate("document.activeElement.tagName") == "A" and outline != "none"
    page.close()


CONTRAST = """() => {
  const light = c => {
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = e => {
    const own = getComputedStyle(e).backgroundColor;
    return own !== 'rgba(0, 0, 0, 0)' || !e.parentElement ? own : ground(e.parentElement);
  };
  return [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('svg') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page_name", ["run", "comparison"])
def test_every_word_stands_out_from_its_ground(
    browser: Any, addresses: dict[str, str], page_name: str, theme: str
) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 to 1."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.goto(addresses[page_name])
    assert page.evaluate(CONTRAST) == []
    context.close()
