"""The pages name everything there is, and nothing that is not."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import typer
from doc_pages import ROOT, pages
from pydantic import BaseModel

from undiffuse.api import VERBS
from undiffuse.augment.adaptive import AdaptiveConfig
from undiffuse.augment.config import AUGMENTATIONS, AugmentConfig
from undiffuse.cli.main import app
from undiffuse.compute.backend import ComputeConfig
from undiffuse.core.parameterization import PARAMETERIZATIONS
from undiffuse.core.processes import PROCESSES
from undiffuse.data.config.loader import LoaderConfig
from undiffuse.data.download import SETS
from undiffuse.data.prepare.settings import Filters
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.diagnostics import DATA_CHECKS, RUN_CHECKS
from undiffuse.evaluation import METRICS
from undiffuse.losses.adversarial import OBJECTIVES
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.losses.weighting import WEIGHTINGS
from undiffuse.metrics import FEATURES
from undiffuse.models.options import SamplingConfig
from undiffuse.networks import NETWORK_CONFIGS
from undiffuse.networks.config import MLPConfig, TransformerConfig, UNetConfig
from undiffuse.networks.gan import DISCRIMINATOR_CONFIGS, GENERATOR_CONFIGS
from undiffuse.objectives import OBJECTIVE_CONFIGS
from undiffuse.objectives.consistency import ConsistencyConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.objectives.distribution_matching import DistributionMatchingConfig
from undiffuse.objectives.gan import GanConfig
from undiffuse.objectives.mean_flow import MeanFlowConfig
from undiffuse.objectives.progressive import ProgressiveConfig
from undiffuse.recipes import RECIPES
from undiffuse.recipes.few_step import DISTILLATIONS
from undiffuse.registry import resolve
from undiffuse.samplers import SAMPLERS
from undiffuse.samplers.grids import GRIDS
from undiffuse.studies import MODEL_STUDIES, STUDIES
from undiffuse.studies.theory.ground_truth import TRUTHS
from undiffuse.studies.theory.study import FIGURES
from undiffuse.training.config import EMAConfig, OptimizerConfig, PosthocConfig, RunConfig

LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked: lower case, spaces as dashes, no other signs; and ``<a id>``."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return set(re.findall(r'<a id="([^"]+)">', text)) | {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_hold_no_path_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users)/", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/reference/recipes.md", [*RECIPES]),
        ("docs/guides/python.md", [*VERBS]),
        ("docs/guides/training.md", [*PROCESSES, *PARAMETERIZATIONS, *WEIGHTINGS, *TIME_DENSITIES, *NETWORK_CONFIGS]),
        ("docs/guides/training.md", [*RunConfig.model_fields, *OptimizerConfig.model_fields, *EMAConfig.model_fields]),
        ("docs/guides/training.md", [*OBJECTIVE_CONFIGS, *DiffusionConfig.model_fields, *SamplingConfig.model_fields]),
        ("docs/guides/few-steps.md", [*DISTILLATIONS, *ConsistencyConfig.model_fields]),
        ("docs/guides/few-steps.md", [*DistributionMatchingConfig.model_fields]),
        ("docs/guides/few-steps.md", [*MeanFlowConfig.model_fields, *ProgressiveConfig.model_fields]),
        ("docs/guides/gans.md", [*OBJECTIVES, *GanConfig.model_fields, *AdaptiveConfig.model_fields]),
        (
            "docs/guides/gans.md",
            [
                key
                for table in (GENERATOR_CONFIGS, DISCRIMINATOR_CONFIGS)
                for row in table.values()
                for key in row.model_fields
            ],
        ),
        ("docs/guides/gans.md", [*GENERATOR_CONFIGS, *DISCRIMINATOR_CONFIGS]),
        ("docs/guides/speed.md", [*ComputeConfig.model_fields, *PosthocConfig.model_fields]),
        ("docs/theory/adversarial.md", [*OBJECTIVES]),
        (
            "docs/guides/training.md",
            [*RECIPES, *UNetConfig.model_fields, *TransformerConfig.model_fields, *MLPConfig.model_fields],
        ),
        ("docs/theory/diffusion.md", [*PROCESSES, *PARAMETERIZATIONS, *WEIGHTINGS]),
        ("docs/guides/studies.md", [*(f"study {name}" for name in STUDIES), *FIGURES, *TRUTHS]),
        ("docs/guides/training.md", [*AUGMENTATIONS, *AugmentConfig.model_fields, *LoaderConfig.model_fields]),
        ("docs/guides/getting-started.md", [*SOURCE_CONFIGS]),
        ("docs/guides/data.md", [*SOURCE_CONFIGS, *SETS, *LoaderConfig.model_fields, *Filters.model_fields]),
        ("docs/guides/data.md", [key for row in SOURCE_CONFIGS.values() for key in row.model_fields]),
        ("docs/guides/sampling.md", [*SAMPLERS, *GRIDS, *PROCESSES]),
        ("docs/guides/evaluation.md", [*METRICS, *FEATURES]),
        ("docs/guides/doctor.md", [*DATA_CHECKS, *RUN_CHECKS]),
        (
            "docs/guides/studies.md",
            [key for row in MODEL_STUDIES.values() for key in resolve(row.options).model_fields],
        ),
    ],
)
def test_pages_name_every_row(page: str, names: list[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [name for name in names if not re.search(rf"[`.]{re.escape(name)}\b", text)]
    assert not missing, f"{page} does not name {missing}"


@pytest.mark.parametrize(
    "model",
    [RunConfig, OptimizerConfig, EMAConfig, DiffusionConfig, SamplingConfig, UNetConfig, TransformerConfig, MLPConfig],
)
def test_the_training_guide_names_every_choice(model: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
    for field in model.model_fields.values():
        for value in get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
            assert f"`{value}`" in text, value


def test_contributing_names_every_package_and_folder_of_tests() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "undiffuse"
    packages = {path.name for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    for name in packages | modules:
        assert re.search(rf"\b{name}\b", text), name
    for folder in (ROOT / "tests").iterdir():
        assert not list(folder.glob("test_*.py")) or f"`{folder.name}`" in text, folder.name


def test_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for name in group.commands:  # type: ignore[attr-defined]
        assert f"`undiffuse {name}" in text, name


def test_the_reference_of_the_command_line_is_current() -> None:
    created = runpy.run_path(str(ROOT / "tools" / "make_cli_reference.py"))
    written = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert written == created["page"](), "run: python tools/make_cli_reference.py"


def test_the_page_of_recipes_is_current() -> None:
    """Parameters included, which are counted anew."""
    created = runpy.run_path(str(ROOT / "tools" / "make_recipe_page.py"))
    written = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    assert written == created["page"](), "run: python tools/make_recipe_page.py"
