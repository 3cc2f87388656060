"""What can be done to training images: the probability and the strength of each transformation. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from undiffuse.config import ComponentConfig

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Octaves = Annotated[float, Field(gt=0, le=8)]  # much more, and the map cannot be undone in floating point
Angle = Annotated[float, Field(gt=0, le=180)]
Acute = Annotated[float, Field(gt=0, le=60)]


#: Names of all transformations, which are the options that hold their probabilities.
TRANSFORMATION_NAMES = (
    *("flip", "flip_vertical", "scale", "rotate", "stretch", "translate", "shear", "tilt"),
    *("brightness", "contrast", "colour", "hue", "saturation", "cutout"),
)


class AugmentConfig(ComponentConfig):
    """Each transformation has the probability that an image gets it, and a strength whose unit is in its name.

    Numbers called a are drawn anew for each image: uniform in [-1, 1], or normal with unit variance.

    Args:
        condition: give the network what was done to each image, and "nothing" when sampling, so that it learns from
            the transformed images and draws none of them (Karras et al. 2022); no effect on what is done.
        flip, flip_vertical: mirror left to right, top to bottom.
        scale: enlarge by 2^(scale_octaves a), a normal.
        rotate: by rotate_degrees a, a uniform.
        stretch: enlarge by 2^(stretch_octaves a) in a direction of its own and shrink as much across it, a normal.
        translate: by translate_share a of width and of height, a normal.
        shear: slant by shear_degrees a, a uniform.
        tilt: turn out of the plane by tilt_degrees a about both axes, seen from twice the image's side, a uniform.
        brightness: add brightness_shift a to values in [-1, 1], a normal.
        contrast: scale values about mid-grey by 2^(contrast_octaves a), a normal.
        colour: add colour_shift a to each channel, a normal; not for grey images.
        hue: turn about the grey axis of the RGB cube by hue_degrees a, a uniform; not for grey images.
        saturation: scale the distance from luma by 2^(saturation_octaves a), a normal; not for grey images.
        cutout: make a rectangle mid-grey of cutout_share of each side, its centre uniform over the image.
        padding: what lies beyond the border, the image's reflection or its edge.
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
        """Is any transformation asked for?"""
        return any(getattr(self, name) > 0 for name in TRANSFORMATION_NAMES)


class NoAugmentConfig(AugmentConfig):
    """Nothing; where to start from to choose transformations one by one."""

    name: Literal["none"] = "none"


class FlipConfig(AugmentConfig):
    """Half of the images mirrored, and the network not conditioned on it: mirrored images are as good as any."""

    name: Literal["flip"] = "flip"
    condition: bool = False
    flip: Probability = 0.5


class DocumentConfig(AugmentConfig):
    """Some of everything at strengths that leave an image what it is: against overfitting on about 1,000 images."""

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
    """Karras et al. 2022, arXiv:2206.00364, appendix F.2: six geometric ones, each with probability 0.12 but the flip.

    There a vertical flip is tried with probability 0.12 and then made by a fair coin.
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
