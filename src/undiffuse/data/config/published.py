"""Configuration of the sources that read sets of images as their authors publish them, and tables of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from undiffuse.data.config.base import EncodedConfig, ImageConfig, LocationText

Split = Literal["train", "test"]

#: Names of CelebA's and CelebA-HQ's lists of attributes, and of its list of the parts; Kaggle's are ``.csv``.
ATTRIBUTE_LISTS = ("list_attr_celeba.txt", "list_attr_celeba.csv", "CelebAMask-HQ-attribute-anno.txt")
PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")


class CifarConfig(ImageConfig):
    """CIFAR-10 and CIFAR-100 in the binary or the Python layout, unpacked or as the .tar.gz they come in.

    Args:
        path: a folder of ``data_batch_1.bin`` and the like, of ``data_batch_1`` and the like, the published archive,
            or one file of either layout.
        split: which files of a folder or archive, ``train`` or ``test``; ``None`` means ``train`` for these, and for
            a file that very file.
        label: which of CIFAR-100's two labels is the class: ``fine`` (100 of them) or ``coarse`` (20). CIFAR-10 has
            one label, whatever is said here.
    """

    name: Literal["cifar"] = "cifar"
    path: LocationText
    split: Split | None = None
    label: Literal["fine", "coarse"] = "fine"

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


class EmnistConfig(ImageConfig):
    """EMNIST in its MATLAB layout, such as emnist-letters.mat; its IDX files are the source idx.

    Args:
        path: the ``.mat`` file (version 5, as published).
        split: ``train`` or ``test``, which lie in one file.
    """

    name: Literal["emnist"] = "emnist"
    path: LocationText
    split: Split = "train"

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


class ArraysConfig(ImageConfig):
    """NumPy files of images: .npy (mapped, so it may be larger than memory) or .npz with labels.

    Args:
        path: the file.
        split: of a ``.npz`` that holds both, as Keras writes them (``x_train``, ``x_test``) and MedMNIST
            (``train_images``, ``test_images``): the arrays of which to take.
        array: the name of the array of images in a ``.npz``; ``auto`` takes ``images``, ``x``, ``data``, ``arr_0``
            or the only array that can be one.
        labels: the name of the array of class indices; ``auto`` takes ``labels``, ``y``, ``arr_1`` where there is one
            and ``none`` takes none.
        axes: ``NHW``, ``NHWC`` or ``NCHW``; ``auto`` looks which axis is 1 or 3 long and says what it took.
        levels: what the numbers mean: ``0..255`` of bytes, or, for floating-point numbers, ``0..1`` or ``-1..1``.
    """

    name: Literal["arrays"] = "arrays"
    path: LocationText
    split: Split = "train"
    array: str = "auto"
    labels: str = "auto"
    axes: Literal["auto", "NHW", "NHWC", "NCHW"] = "auto"
    levels: Literal["0..255", "0..1", "-1..1"] = "0..255"

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


class ParquetConfig(EncodedConfig):
    """Parquet and Arrow tables with a column of images, as Hugging Face's datasets writes them.

    Args:
        path: a file, or a folder of shards such as ``train-00000-of-00002.parquet`` (also in its ``data`` folder, or in
            a folder for each split).
        split: the shards of which split, as its files are called, or ``all``; ``None`` means ``train``, or the only one
            there is, and for a file that very file.
        image_column: the column of images, a struct of ``bytes`` and ``path`` or plain bytes; ``auto`` finds it.
        label_column: the column of classes; ``auto`` takes the first that the table declares as classes, else one
            called ``label``, ``labels`` or ``class``.
        caption_column: the column of texts or of lists of texts; ``auto`` takes one called ``caption``, ``text`` or
            ``prompt``, also with an s, or ``sentences``, else the only column of texts.
        caption_index: which of a list of captions is taken, from 0; of a shorter list the last.
        labels: ``none`` reads no classes.
    """

    name: Literal["parquet"] = "parquet"
    split: str | None = None
    image_column: str = "auto"
    label_column: str = "auto"
    caption_column: str = "auto"
    caption_index: Annotated[int, Field(ge=0, le=1000)] = 0
    labels: Literal["auto", "none"] = "auto"


class LmdbConfig(EncodedConfig):
    """LSUN's LMDB folders, such as church_outdoor_train_lmdb with its data.mdb.

    Args:
        path: such a folder, its ``data.mdb``, or a folder of several of them.
        split: the folders of which split, by their names; ``None`` means ``train`` for a folder of several.
        labels: ``auto`` makes a class of each category where there are several; ``none`` makes none.
    """

    name: Literal["lmdb"] = "lmdb"
    split: Literal["train", "val", "test"] | None = None
    labels: Literal["auto", "none"] = "auto"


class CelebaConfig(EncodedConfig):
    """CelebA and CelebA-HQ: numbered faces with a list of forty attributes each.

    Args:
        path: the folder that holds the images and the lists, the folder of images with the lists next to it, or
            ``img_align_celeba.zip`` with the lists in or next to it.
        split: of ``list_eval_partition.txt`` or ``.csv``, or ``all``; ``None`` means ``train`` where that list is there
            and has any of the images, else all.
        attribute: the attribute that makes two classes, such as ``Smiling``; none is taken unless named.
        captions: ``auto`` makes a text of the attributes that an image has.
        labels: ``none`` reads no classes, whatever ``attribute`` says.
    """

    name: Literal["celeba"] = "celeba"
    split: Literal["train", "validation", "test", "all"] | None = None
    attribute: str | None = None
    labels: Literal["auto", "none"] = "auto"

    @property
    def companions(self) -> tuple[Path, ...]:
        """The lists, which may lie next to the folder or archive of images."""
        return tuple(self.location.resolve().parent / name for name in (*ATTRIBUTE_LISTS, *PARTITIONS))


class FfhqConfig(EncodedConfig):
    """FFHQ: 70,000 numbered faces in numbered folders, or a zip of them.

    Args:
        path: the folder or archive of ``00000/00000.png`` and so on, or the one that holds it as
            ``images1024x1024`` or ``thumbnails128x128``.
        split: ``train`` for the numbers below 60,000 and ``validation`` for the rest, as its authors have them,
            or ``all``; ``None`` means ``train`` where any of it is there.
    """

    name: Literal["ffhq"] = "ffhq"
    split: Literal["train", "validation", "all"] | None = None
    labels: Literal["auto", "none"] = "auto"


class EmojiConfig(EncodedConfig):
    """Emoji with names and categories, in the layout of npm's emoji-datasource packages.

    Args:
        path: the folder, zip or tar archive of ``emoji.json`` and ``img/twitter/64`` and the like.
        vendor: whose images, where there are several: ``apple``, ``google``, ``twitter``, ``facebook``.
        skin_tones: ``base`` leaves out the images that differ from another in the tone of skin alone; ``all`` keeps
            them, with the tone in the caption.
        labels: ``auto`` takes the categories; ``none`` makes no classes.
    """

    name: Literal["emoji"] = "emoji"
    vendor: str | None = None
    skin_tones: Literal["base", "all"] = "base"
    labels: Literal["auto", "none"] = "auto"
