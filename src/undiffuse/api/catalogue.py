"""Names of recipes, samplers, grids, data sources and studies with a summary of each; imports are lazy."""

from __future__ import annotations

from undiffuse.studies import MODEL_STUDIES, RENAMED_STUDIES
from undiffuse.zoo import bundled_models as bundled_models
from undiffuse.zoo.card import Bundled as Bundled
from undiffuse.zoo.card import bundled as bundled


def recipes() -> dict[str, str]:
    """Recipe → what it trains."""
    from undiffuse.recipes import RECIPES

    return {name: recipe.summary for name, recipe in RECIPES.items()}


def samplers() -> dict[str, str]:
    """Sampler → its order, its largest NFE per step, whether it is stochastic, and the paper."""
    from undiffuse.samplers import SAMPLERS, make_sampler

    rows = {name: make_sampler(name) for name in SAMPLERS}
    return {
        name: f"order {row.order}, up to {row.max_nfe_per_step} NFE per step, "
        f"{'stochastic' if row.stochastic else 'deterministic'}, {row.source}"
        for name, row in rows.items()
    }


def time_grids() -> list[str]:
    """Names of the time grids."""
    from undiffuse.samplers.grids import GRIDS

    return list(GRIDS)


def data_sources() -> dict[str, str]:
    """Data source → what it reads."""
    from undiffuse.data.registry import SOURCE_CONFIGS

    return {name: (model.__doc__ or "").strip().splitlines()[0] for name, model in SOURCE_CONFIGS.items()}


def studies() -> dict[str, str]:
    """Study → what it shows, including studies that train models."""
    from undiffuse.studies import STUDIES

    return dict(STUDIES)


def model_studies() -> dict[str, str]:
    """Study of a trained image model → what it shows."""
    return {name: study.summary for name, study in MODEL_STUDIES.items()}


def renamed_studies() -> dict[str, str]:
    """Earlier name of a study → its name."""
    return dict(RENAMED_STUDIES)
