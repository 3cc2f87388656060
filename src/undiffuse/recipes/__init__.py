"""Recipes: functions that return a complete training configuration. Listing them imports only this file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from undiffuse.registry import lookup, resolve

if TYPE_CHECKING:
    from undiffuse.training.config import RunConfig


class Recipe(NamedTuple):
    """A one-line summary of a recipe, and the function that returns its configuration, as ``module:function``."""

    summary: str
    function: str


RECIPES = {
    "photos-64": Recipe(
        "your own photographs at 64x64, in colour, with classes: an hour on two cores", "photos:photos_64"
    ),
    "photos-48": Recipe(
        "your own photographs at 48x48, in colour, with classes: an hour on two cores", "photos:photos_48"
    ),
    "photos-32": Recipe(
        "your own photographs at 32x32, in colour, with classes: an hour on two cores", "photos:photos_32"
    ),
    "text-emoji": Recipe(
        "emoji of three vendors at 64x64 from their names and tags: two hours on two cores", "text:text_emoji"
    ),
    "ddpm-digits": Recipe("DDPM on scikit-learn's 8x8 digits: the demo, two minutes on two cores", "small:ddpm_digits"),
    "ddpm-mnist": Recipe("DDPM (linear schedule, noise prediction) on MNIST-format files", "families:ddpm_mnist"),
    "iddpm-mnist": Recipe(
        "improved DDPM (cosine schedule, learned variance, hybrid loss) on MNIST-format files", "families:iddpm_mnist"
    ),
    "ncsn-mnist": Recipe(
        "noise-conditional score network on MNIST-format files, 95 geometric noise levels", "families:ncsn_mnist"
    ),
    "vesde-mnist": Recipe("variance-exploding SDE on MNIST-format files", "families:vesde_mnist"),
    "vpsde-mnist": Recipe("variance-preserving SDE on MNIST-format files", "families:vpsde_mnist"),
    "subvpsde-mnist": Recipe("sub-VP SDE on MNIST-format files", "families:subvpsde_mnist"),
    "edm-mnist": Recipe("EDM (preconditioned, log-normal noise levels) on MNIST-format files", "families:edm_mnist"),
    "flow-mnist": Recipe("flow matching on MNIST-format files: ten minutes on two cores", "families:flow_mnist"),
    "ct-mnist": Recipe(
        "consistency model without a teacher on MNIST-format files: one- or two-step sampling", "few_step:ct_mnist"
    ),
    "classifier-mnist": Recipe(
        "noise-aware classifier on MNIST-format files, for classifier guidance: three minutes on two cores",
        "classifiers:classifier_mnist",
    ),
    "classifier-rings": Recipe(
        "noise-aware classifier of the points of concentric circles, for classifier guidance",
        "classifiers:classifier_rings",
    ),
    "contrastive-scenes": Recipe(
        "contrastive model of noisy scenes of two coloured shapes and their captions, for evaluation and guidance: "
        "minutes on two cores",
        "contrastive:contrastive_scenes",
    ),
    "flow-fashion": Recipe("flow matching on Fashion-MNIST", "families:flow_fashion"),
    "edm-fashion": Recipe("EDM on Fashion-MNIST", "families:edm_fashion"),
    "text-scenes": Recipe(
        "flow matching on captioned scenes of coloured shapes at 32x32, with sizes and counts: an hour on two cores",
        "text:text_scenes",
    ),
    "text-scenes-16": Recipe(
        "flow matching on captioned scenes of two coloured shapes at 16x16: ten minutes on two cores",
        "text:text_scenes_16",
    ),
    "ddpm-emnist": Recipe(
        "DDPM on letters and digits: EMNIST files, or any folder of grey characters", "families:ddpm_emnist"
    ),
    "ddpm-swissroll": Recipe("DDPM on a two-dimensional Swiss roll", "plane:ddpm_swissroll"),
    "iddpm-swissroll": Recipe("improved DDPM (cosine, learned variance) on the Swiss roll", "plane:iddpm_swissroll"),
    "ncsn-swissroll": Recipe("NCSN on the Swiss roll, sampled by annealed Langevin dynamics", "plane:ncsn_swissroll"),
    "vesde-swissroll": Recipe("variance-exploding SDE on the Swiss roll", "plane:vesde_swissroll"),
    "vpsde-swissroll": Recipe("variance-preserving SDE on the Swiss roll", "plane:vpsde_swissroll"),
    "subvpsde-swissroll": Recipe("sub-VP SDE on the Swiss roll", "plane:subvpsde_swissroll"),
    "edm-swissroll": Recipe("EDM on the Swiss roll", "plane:edm_swissroll"),
    "flow-swissroll": Recipe("flow matching on the Swiss roll", "plane:flow_swissroll"),
    "meanflow-mnist": Recipe(
        "MeanFlow without a teacher on MNIST-format files: one- or two-step sampling", "few_step:meanflow_mnist"
    ),
    "progressive-mnist": Recipe(
        "flow on MNIST-format files, then halved to one step by progressive distillation", "few_step:progressive_mnist"
    ),
    "dcgan-mnist": Recipe("deep convolutional GAN (DCGAN) on MNIST-format files", "adversarial:dcgan_mnist"),
    "wgan-gp-mnist": Recipe("Wasserstein GAN with gradient penalty on MNIST-format files", "adversarial:wgan_gp_mnist"),
    "r3gan-fashion": Recipe(
        "R3GAN (relativistic loss, R1 and R2, no normalisation) on Fashion-MNIST", "adversarial:r3gan_fashion"
    ),
    "gan-rings": Recipe("original GAN on eight Gaussians on a ring: drops modes", "adversarial:gan_rings"),
    "unrolled-gan-rings": Recipe(
        "unrolled GAN on eight Gaussians on a ring: covers all modes", "adversarial:unrolled_gan_rings"
    ),
    "dcgan-bedroom64": Recipe(
        "DCGAN at 64x64 on any folder of images, with the paper's network for LSUN bedrooms",
        "adversarial:dcgan_bedroom64",
    ),
    "ddpm-bedroom64": Recipe(
        "DDPM at 64x64 on any folder of images, with the size and number of images of dcgan-bedroom64",
        "large:ddpm_bedroom64",
    ),
    "ddpm-church48": Recipe(
        "DDPM at 48x48 on any folder of images, with the network of the LSUN church report", "large:ddpm_church48"
    ),
    "ddpm-cifar10": Recipe(
        "DDPM with Ho et al.'s 35.7M-parameter network, on a folder of 32x32 colour images", "large:ddpm_cifar10"
    ),
    "ddpmpp-cifar10": Recipe(
        "VP SDE with Song et al.'s DDPM++ (61.8M), on a folder of 32x32 colour images", "large:ddpmpp_cifar10"
    ),
    "edm-cifar10": Recipe(
        "EDM with Karras et al.'s 55.7M-parameter network, on a folder of 32x32 colour images", "large:edm_cifar10"
    ),
    "dit-cifar10": Recipe(
        "flow matching with the transformer DiT-S/2 (32.5M), on a folder of 32x32 colour images", "large:dit_cifar10"
    ),
    "ncsnpp-ffhq256": Recipe(
        "VE SDE with NCSN++ (65.6M) at 256x256, on FFHQ or any folder of images", "large:ncsnpp_ffhq256"
    ),
}


def get_recipe(name: str) -> RunConfig:
    """The configuration of the recipe ``name``.

    Raises:
        UsageError: no such recipe; the message suggests the closest name.
    """
    recipe: Recipe = lookup(RECIPES, name, "recipe")
    config: RunConfig = resolve(f"undiffuse.recipes.{recipe.function}")()
    return config
