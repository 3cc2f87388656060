"""Recipes: functions that return a whole configuration. Listing them imports nothing but this file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from undiffuse.registry import lookup, resolve

if TYPE_CHECKING:
    from undiffuse.training.config import RunConfig


class Recipe(NamedTuple):
    """One line about a recipe, and where the function is that returns its configuration."""

    summary: str
    function: str


RECIPES = {
    "ddpm-digits": Recipe("DDPM on scikit-learn's 8x8 digits: the demo, two minutes on two cores", "small:ddpm_digits"),
    "ddpm-mnist": Recipe("DDPM (linear schedule, noise prediction) on MNIST-format files", "small:ddpm_mnist"),
    "flow-mnist": Recipe(
        "flow matching at half resolution on MNIST-format files: ten minutes on two cores", "small:flow_mnist"
    ),
    "ddpm-emnist": Recipe(
        "DDPM on letters and digits: EMNIST files, or any folder of grey characters", "small:ddpm_emnist"
    ),
    "ddpm-swissroll": Recipe("DDPM on a two-dimensional Swiss roll", "small:ddpm_swissroll"),
    "ddpm-church48": Recipe(
        "DDPM at 48x48 on any folder of pictures, the network of the LSUN church report", "large:ddpm_church48"
    ),
    "ddpm-cifar10": Recipe(
        "DDPM with Ho et al.'s 35.7M-parameter network, on a folder of 32x32 colour pictures", "large:ddpm_cifar10"
    ),
}


def get_recipe(name: str) -> RunConfig:
    """The configuration of the recipe called ``name``.

    Raises:
        UsageError: no such recipe; the nearest is named.
    """
    recipe: Recipe = lookup(RECIPES, name, "recipe")
    config: RunConfig = resolve(f"undiffuse.recipes.{recipe.function}")()
    return config
