"""Configuration of data augmentation: probability and strength of each transformation. Does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from undiffuse.config import ComponentConfig

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Octaves = Annotated[float, Field(gt=0, le=8)]  # for larger values the map cannot be inverted in floating point
Angle = Annotated[float, Field(gt=0, le=180)]
Acute = Annotated[float, Field(gt=0, le=60)]


#: Names of all transformations, which are also the names of the probability options.
TRANSFORMATION_NAMES = (
    *("flip", "flip_vertical", "scale", "rotate", "stretch", "translate", "shear", "tilt"),
    *("brightness", "contrast", "colour", "hue", "saturation", "cutout"),
)


class AugmentConfig(ComponentConfig):
    """Each transformation has a probability, applied per image, and a strength whose unit is in its name.

    Random numbers a are drawn for each image: uniform in [-1, 1], or normal with unit variance.

    Args:
        condition: condition the network on the transformation of each image, and on "none" when sampling, so that it
            learns from transformed images without generating them (Karras et al. 2022); does not affect the images.
        flip, flip_vertical: mirror left to right, top to bottom.
        scale: scale by 2^(scale_octaves a), a normal.
        rotate: rotate by rotate_degrees a, a uniform.
        stretch: scale by 2^(stretch_octaves a) along a random direction and by its inverse across it, a normal.
        translate: by translate_share a of width and of height, a normal.
        shear: by shear_degrees a, a uniform.
        tilt: rotate out of the plane by tilt_degrees a about both axes, seen from twice the image's side, a uniform.
        brightness: add brightness_shift a to values in [-1, 1], a normal.
        contrast: scale values about mid-grey by 2^(contrast_octaves a), a normal.
        colour: add colour_shift a to each channel, a normal; not for grey images.
        hue: rotate about the grey axis of the RGB cube by hue_degrees a, a uniform; not for grey images.
        saturation: scale the distance from luma by 2^(saturation_octaves a), a normal; not for grey images.
        cutout: fill a rectangle of cutout_share of each side with mid-grey, its centre uniform over the image.
        padding: values beyond the border: reflection of the image or its edge.
    """

    condition: bool = True
    flip: Probability = 0.0
    flip_vertical: Probability = 0.0
    scale: Probability = 0.0
    scale_octaves: Octaves = 0.2
    rotate: Probability = 0.0
    rotate_degrees: Angle = 180.0
    stretch: Probability = 0.0
    stretch_octaves: Octaves = 0.2
    translate: Probability = 0.0
    translate_share: Positive = 0.125
    shear: Probability = 0.0
    shear_degrees: Acute = 15.0
    tilt: Probability = 0.0
    tilt_degrees: Acute = 25.0
    brightness: Probability = 0.0
    brightness_shift: Positive = 0.2
    contrast: Probability = 0.0
    contrast_octaves: Octaves = 0.5
    colour: Probability = 0.0
    colour_shift: Positive = 0.1
    hue: Probability = 0.0
    hue_degrees: Angle = 180.0
    saturation: Probability = 0.0
    saturation_octaves: Octaves = 1.0
    cutout: Probability = 0.0
    cutout_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    padding: Literal["reflect", "edge"] = "reflect"

    @property
    def any(self) -> bool:
        """Whether any transformation is enabled."""
        return any(getattr(self, name) > 0 for name in TRANSFORMATION_NAMES)


class NoAugmentConfig(AugmentConfig):
    """No augmentation; the base for enabling transformations one by one."""

    name: Literal["none"] = "none"


class FlipConfig(AugmentConfig):
    """Random horizontal flips, without conditioning: mirrored images are valid samples."""

    name: Literal["flip"] = "flip"
    condition: bool = False
    flip: Probability = 0.5


class DocumentConfig(AugmentConfig):
    """All transformations at moderate strengths: against overfitting on about 1,000 images."""

    name: Literal["document"] = "document"
    flip: Probability = 0.5
    scale: Probability = 0.3
    rotate: Probability = 0.3
    rotate_degrees: Angle = 15.0
    translate: Probability = 0.3
    translate_share: Positive = 0.08
    shear: Probability = 0.2
    shear_degrees: Acute = 10.0
    tilt: Probability = 0.3
    brightness: Probability = 0.3
    contrast: Probability = 0.3
    colour: Probability = 0.3
    hue: Probability = 0.3
    hue_degrees: Angle = 30.0
    saturation: Probability = 0.3
    saturation_octaves: Octaves = 0.5
    cutout: Probability = 0.2
    cutout_share: Annotated[float, Field(gt=0, le=1)] = 0.3


class KarrasConfig(AugmentConfig):
    """Karras et al. 2022, arXiv:2206.00364, appendix F.2: six geometric ones, with probability 0.12 except the flip.

    In the paper the vertical flip is enabled with probability 0.12 and then applied with probability 1/2.
    """

    name: Literal["karras"] = "karras"
    flip: Probability = 0.5
    flip_vertical: Probability = 0.06
    scale: Probability = 0.12
    rotate: Probability = 0.12
    stretch: Probability = 0.12
    translate: Probability = 0.12


AUGMENTATIONS: dict[str, type[AugmentConfig]] = {
    "none": NoAugmentConfig,
    "flip": FlipConfig,
    "document": DocumentConfig,
    "karras": KarrasConfig,
}
