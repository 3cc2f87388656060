"""Configuration of the sources that read published data sets in their original layout, and tables of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from undiffuse.data.config.base import EncodedConfig, ImageConfig, LocationText

Split = Literal["train", "test"]

#: File names of the attribute lists of CelebA and CelebA-HQ, and of CelebA's list of splits; Kaggle's are ``.csv``.
ATTRIBUTE_LISTS = ("list_attr_celeba.txt", "list_attr_celeba.csv", "CelebAMask-HQ-attribute-anno.txt")
PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")


class CifarConfig(ImageConfig):
    """CIFAR-10 and CIFAR-100 in the binary or the Python version, unpacked or as the published .tar.gz.

    Args:
        path: a folder of ``data_batch_1.bin`` and the like, of ``data_batch_1`` and the like, the published archive,
            or one file of either version.
        split: which files of a folder or archive, ``train`` or ``test``; ``None`` means ``train`` for these, and the
            given file for a file.
        label: which of CIFAR-100's two labels is the class: ``fine`` (100 classes) or ``coarse`` (20). No effect on
            CIFAR-10.
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
    """EMNIST in its MATLAB format, such as emnist-letters.mat; for its IDX files use the source idx.

    Args:
        path: the ``.mat`` file (version 5, as published).
        split: ``train`` or ``test``, both in one file.
    """

    name: Literal["emnist"] = "emnist"
    path: LocationText
    split: Split = "train"

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


class ArraysConfig(ImageConfig):
    """NumPy files of images: .npy (memory-mapped, may be larger than memory) or .npz with labels and captions.

    Args:
        path: the file.
        split: which arrays to use of a ``.npz`` with both splits, as in Keras (``x_train``, ``x_test``) and MedMNIST
            (``train_images``, ``test_images``).
        array: the name of the array of images in a ``.npz``; ``auto`` takes ``images``, ``x``, ``data``, ``arr_0``
            or the only array of a suitable shape.
        labels: the name of the array of class indices; ``auto`` takes ``labels``, ``y`` or ``arr_1`` if present and
            ``none`` reads none.
        captions: the name of the array of captions in a ``.npz``, strings of shape (N,), or (N, K) for K captions of
            each image; ``auto`` takes ``captions``, ``caption``, ``texts``, ``text``, ``prompts`` or ``prompt`` if
            present and ``none`` reads none.
        axes: ``NHW``, ``NHWC`` or ``NCHW``; ``auto`` looks for an axis of length 1 or 3 and reports its choice.
        levels: range of the values: ``0..255`` for bytes, or, for floating-point numbers, ``0..1`` or ``-1..1``.
    """

    name: Literal["arrays"] = "arrays"
    path: LocationText
    split: Split = "train"
    array: str = "auto"
    labels: str = "auto"
    captions: str = "auto"
    axes: Literal["auto", "NHW", "NHWC", "NCHW"] = "auto"
    levels: Literal["0..255", "0..1", "-1..1"] = "0..255"

    @property
    def location(self) -> Path:
        """``path`` with ``~`` resolved."""
        return Path(self.path).expanduser()


class ParquetConfig(EncodedConfig):
    """Parquet and Arrow tables with a column of images, as written by Hugging Face datasets.

    Args:
        path: a file, or a folder of shards such as ``train-00000-of-00002.parquet`` (also in its ``data`` folder, or in
            a folder for each split).
        split: the split, by the names of its files, or ``all``; ``None`` means ``train``, or the only split, and the
            given file for a file.
        image_column: the column of images, a struct of ``bytes`` and ``path`` or plain bytes; ``auto`` detects it.
        label_column: the column of classes; ``auto`` takes the first declared as classes by the table, else one named
            ``label``, ``labels`` or ``class``.
        caption_column: the column of strings or of lists of strings; ``auto`` takes one named ``caption``, ``text`` or
            ``prompt``, also with an s, or ``sentences``, else the only column of strings.
        caption_index: use only this caption of a list, from 0, or the last one of a shorter list; ``None`` uses all,
            one per visit of the image.
        labels: ``none`` reads no classes.
    """

    name: Literal["parquet"] = "parquet"
    split: str | None = None
    image_column: str = "auto"
    label_column: str = "auto"
    caption_column: str = "auto"
    caption_index: Annotated[int, Field(ge=0, le=1000)] | None = None
    labels: Literal["auto", "none"] = "auto"


class LmdbConfig(EncodedConfig):
    """LSUN's LMDB folders, such as church_outdoor_train_lmdb with its data.mdb.

    Args:
        path: such a folder, its ``data.mdb``, or a folder of several of them.
        split: the split, by the names of its folders; ``None`` means ``train`` for a folder of several.
        labels: ``auto`` uses the categories as classes if there are several; ``none`` reads no classes.
    """

    name: Literal["lmdb"] = "lmdb"
    split: Literal["train", "val", "test"] | None = None
    labels: Literal["auto", "none"] = "auto"


class CelebaConfig(EncodedConfig):
    """CelebA and CelebA-HQ: numbered faces with forty binary attributes each.

    Args:
        path: the folder of the images and the lists, the folder of images with the lists next to it, or
            ``img_align_celeba.zip`` with the lists in or next to it.
        split: a split of ``list_eval_partition.txt`` or ``.csv``, or ``all``; ``None`` means ``train`` if that list
            exists and contains any of the images, else all.
        attribute: the attribute that defines two classes, such as ``Smiling``; no classes by default.
        captions: ``auto`` lists the attributes of an image as its caption.
        labels: ``none`` reads no classes, even if ``attribute`` is set.
    """

    name: Literal["celeba"] = "celeba"
    split: Literal["train", "validation", "test", "all"] | None = None
    attribute: str | None = None
    labels: Literal["auto", "none"] = "auto"

    @property
    def companions(self) -> tuple[Path, ...]:
        """The lists, which may be next to the folder or archive of images."""
        return tuple(self.location.resolve().parent / name for name in (*ATTRIBUTE_LISTS, *PARTITIONS))


class FfhqConfig(EncodedConfig):
    """FFHQ: 70,000 numbered faces in numbered folders, or a zip of them.

    Args:
        path: the folder or archive of ``00000/00000.png`` and so on, or one that contains it as
            ``images1024x1024`` or ``thumbnails128x128``.
        split: ``train`` for the numbers below 60,000 and ``validation`` for the rest, as its authors define them,
            or ``all``; ``None`` means ``train`` if any of its images are present.
    """

    name: Literal["ffhq"] = "ffhq"
    split: Literal["train", "validation", "all"] | None = None
    labels: Literal["auto", "none"] = "auto"


class EmojiConfig(EncodedConfig):
    """Emoji with names and categories, in the layout of npm's emoji-datasource packages.

    Args:
        path: the folder, zip or tar archive of ``emoji.json`` and ``img/twitter/64`` and the like.
        vendor: vendor of the images if there are several: ``apple``, ``google``, ``twitter``, ``facebook``.
        skin_tones: ``base`` skips images that differ from another only in skin tone; ``all`` keeps them, with the
            tone in the caption.
        labels: ``auto`` uses the categories; ``none`` reads no classes.
    """

    name: Literal["emoji"] = "emoji"
    vendor: str | None = None
    skin_tones: Literal["base", "all"] = "base"
    labels: Literal["auto", "none"] = "auto"
