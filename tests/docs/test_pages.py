"""The pages name everything there is, and nothing that is not."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import typer

from doc_pages import ROOT, pages
from undiffuse.app.cli import app
from undiffuse.core.parameterization import PARAMETERIZATIONS
from undiffuse.core.processes import PROCESSES
from undiffuse.data.config import SOURCES
from undiffuse.evaluation import METRICS
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.metrics import FEATURES
from undiffuse.networks import NETWORK_CONFIGS
from undiffuse.recipes import RECIPES
from undiffuse.samplers import SAMPLERS
from undiffuse.samplers.grids import GRIDS
from undiffuse.systems.diffusion import DiffusionConfig, SamplingConfig
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_hold_no_path_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users)/", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("README.md", [*RECIPES, *SAMPLERS]),
        ("docs/guides/training.md", [*PROCESSES, *PARAMETERIZATIONS, *WEIGHTINGS, *TIME_DENSITIES, *NETWORK_CONFIGS]),
        ("docs/guides/training.md", [*RunConfig.model_fields, *OptimizerConfig.model_fields, *EMAConfig.model_fields]),
        ("docs/guides/training.md", [*DiffusionConfig.model_fields, *SamplingConfig.model_fields]),
        ("docs/guides/getting-started.md", [*SOURCES]),
        ("docs/guides/sampling.md", [*SAMPLERS, *GRIDS]),
        ("docs/guides/evaluation.md", [*METRICS, *FEATURES]),
    ],
)
def test_pages_name_every_row(page: str, names: list[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [name for name in names if not re.search(rf"[`.]{re.escape(name)}\b", text)]
    assert not missing, f"{page} does not name {missing}"


def test_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for name in group.commands:  # type: ignore[attr-defined]
        assert f"`undiffuse {name}" in text, name


def test_the_reference_of_the_command_line_is_current() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_cli_reference.py"))
    written = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert written == made["page"](), "run: python tools/make_cli_reference.py"
