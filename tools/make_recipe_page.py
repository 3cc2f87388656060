"""Write docs/reference/recipes.md from the registry of recipes.

    python tools/make_recipe_page.py

A test compares the page with what this makes. Parameters are counted on networks that hold no memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.networks import build_network
from undiffuse.objectives.gan import GanConfig
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.recipes.proposal import IMAGES_PER_HOUR

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "recipes.md"

HEAD = """# Recipes

Made by `python tools/make_recipe_page.py` from the program itself; do not edit.

A recipe is a Python function that returns a whole configuration. `undiffuse train RECIPE` trains it, any key can be
overridden with `key=value`, and `undiffuse train RECIPE --dry-run` shows all keys, the size and the cost.
Without a recipe `undiffuse train --data SRC` takes one that fits the data and the hardware.

*Data* is where a recipe looks unless `--data` says otherwise, and the size that it trains at; *images* are those that
training sees, repetitions counted; *steps* are those of the recipe's own sampler. The parameters of a GAN are those of
generator and discriminator; label embeddings are counted where a recipe is class-conditional by itself.
"""

#: module of ``undiffuse.recipes`` → heading and what its recipes have in common
GROUPS = {
    "photos": (
        "Your own images",
        "Photographs and other images in colour; sub-folders are classes. They differ only in size: each sees "
        "as many images as two cores without native bfloat16 process in an hour.",
    ),
    "small": ("The demo", "8×8 digits that come with scikit-learn."),
    "families": (
        "Families of diffusion at 28×28",
        "The diffusion recipes for MNIST share one network (at half resolution), optimizer and number of images (the "
        "flows see more, and have attention only at the lowest resolution): only the family differs. `flow-mnist` and "
        "`flow-fashion` are guided by the EMA weights of an early training stage (autoguidance).",
    ),
    "few_step": ("Few-step models", "Without a pretrained teacher; with one, see `undiffuse distill`."),
    "adversarial": ("GANs", "The baseline, trained by the same trainer on the same data."),
    "plane": ("2-D points", "Small networks on computed data, whose exact scores are known."),
    "large": ("Paper size", "Published settings, for a GPU."),
}
#: (C, H, W) or (D,) of the data that ends a recipe's name
SHAPES: dict[str, tuple[int, ...]] = {
    **{"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion": (1, 28, 28), "emnist": (1, 28, 28)},
    **{"church48": (3, 48, 48), "cifar10": (3, 32, 32), "ffhq256": (3, 256, 256), "bedroom64": (3, 64, 64)},
    **{"swissroll": (2,), "rings": (2,)},
    **{str(side): (3, side, side) for side in IMAGES_PER_HOUR},  # photos-64, photos-48, photos-32
}
#: classes of the data whose recipe is class-conditional by itself
NUM_CLASSES = {"ddpm-digits": 10}


def shape_of(recipe: str) -> tuple[int, ...]:
    """(C, H, W) or (D,) of what the recipe is made for."""
    return SHAPES[recipe.rpartition("-")[2]]


def count_parameters(recipe: str) -> int:
    """Parameters of the recipe's networks on the data that it is made for."""
    config: Any = get_recipe(recipe).system
    shape = shape_of(recipe)
    num_classes = NUM_CLASSES.get(recipe, 0) if config.class_conditional else 0
    with torch.device("meta"):
        if isinstance(config, GanConfig):
            network: torch.nn.Module = config.build(shape, ())
        else:
            spec = ConditionSpec.of_classes(num_classes, target_time=config.needs_target_time)
            network = build_network(config.network, shape, spec, 2 if config.predicts_variance else 1)
    return sum(parameter.numel() for parameter in network.parameters())


def row(name: str) -> str:
    """One recipe as a line of its group's table."""
    config: Any = get_recipe(name)
    system, shape = config.system, shape_of(name)
    place = f"`{getattr(config.data, 'path', None) or config.data.name}`"
    size = f"{place}, {shape[1]}×{shape[2]}" if len(shape) == 3 else place
    if isinstance(system, GanConfig):
        model = f"`gan`, `{system.objective.name}`"
        network, sampler = f"`{system.generator.name}`", "1"
    else:
        model = f"`{system.name}`, `{system.process.name}`"
        network = f"`{system.network.name}`"
        sampler = f"`{system.sampling.sampler}`, {system.sampling.num_steps}"
    cells = [f"`{name}`", RECIPES[name].summary, size, model, network, sampler, f"{config.num_images:,}"]
    return f"| {' | '.join(cells)} | {count_parameters(name) / 1e6:.1f} M |"


def page() -> str:
    """The whole page; a recipe of a module that ``GROUPS`` lacks is an error."""
    modules = {name: recipe.function.partition(":")[0] for name, recipe in RECIPES.items()}
    unknown = set(modules.values()) - set(GROUPS)
    if unknown:
        raise LookupError(f"give the recipes of {', '.join(sorted(unknown))} a heading in GROUPS of {__file__}")
    parts = [HEAD]
    for module, (title, words) in GROUPS.items():
        names = [name for name in RECIPES if modules[name] == module]
        head = "| recipe | what | data | trains | network | sampler, steps | images | parameters |"
        parts.append("\n".join([f"## {title}", "", words, "", head, "|---" * 8 + "|", *map(row, names), ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
