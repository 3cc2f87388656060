"""Configuration of the sources whose files are plain arrays of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from undiffuse.data.config.base import ImageConfig, LocationText


class DigitsConfig(ImageConfig):
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""

    name: Literal["digits"] = "digits"


class IdxConfig(ImageConfig):
    """Files in the format of MNIST (also Fashion-MNIST, KMNIST, EMNIST), gzipped or not.

    Args:
        path: a folder with ``*train-images-idx3-ubyte[.gz]`` and the like, or one file of images.
        split: which files of the folder, ``train`` or ``test`` (also named ``t10k``); ``None`` means ``train`` for a
            folder, and the given file for a file.
        transpose: swap rows and columns; ``None`` does so for files with "emnist" in their name, whose images are
            stored transposed.
    """

    name: Literal["idx"] = "idx"
    path: LocationText
    split: Literal["train", "test"] | None = None
    transpose: bool | None = None

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


class StackedMnistConfig(ImageConfig):
    """Three random images of an IDX set as the red, green and blue channels of one: 1,000 known modes with MNIST.

    The class of a stack is its three digits. Held-out stacks consist of digit images that no training stack contains.

    Args:
        path: a folder with ``*train-images-idx3-ubyte[.gz]`` and the like, or one file of images.
        split: which files of the folder, ``train`` or ``test``.
        num_pictures: number of stacks; the first ones do not depend on it.
        seed: determines which digits are combined.
    """

    name: Literal["stacked_mnist"] = "stacked_mnist"
    path: LocationText
    split: Literal["train", "test"] | None = None
    num_pictures: int = Field(default=128_000, ge=1, le=100_000_000)  # data
    seed: int = Field(default=0, ge=0, lt=2**64)

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()
