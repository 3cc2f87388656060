"""Configuration of the sources of encoded image files."""

from __future__ import annotations

from typing import Literal

from undiffuse.data.config.base import EncodedConfig, LocationText

TreeLabels = Literal["auto", "metadata", "folders", "leaf", "prefix", "none"]


class TreeConfig(EncodedConfig):
    """Options of folders and of archives of folders.

    Args:
        split: which split to use if the folders are named after splits, such as ``train``, ``val``, ``test``: a
            folder's name, ``train``, ``validation`` or ``test``, or ``all``. ``None`` takes the training split if every
            folder is named after a split, and only ``images`` of ``images`` and ``masks``; ``none`` treats all folders
            alike.
        labels: where the classes come from. ``metadata``: ``dataset.json``, ``metadata.jsonl`` or a JSON file next to
            each image. ``folders``: one class per sub-folder of the first level; ``leaf``: per deepest folder.
            ``prefix``: the file name before its final ``_`` or ``-`` and number, as in ``cat_001.png``. ``none``: no
            classes. ``auto`` takes ``metadata`` if it has labels, else ``folders`` if every image is exactly one level
            down, in at least two sub-folders whose names are not just numbers of five digits or more; else none.
        captions: ``auto`` reads the ``.txt`` (one caption per line) or ``.json`` next to each image, else
            ``metadata.jsonl`` or ``metadata.csv``.
    """

    split: LocationText | None = None
    labels: TreeLabels = "auto"


class FolderConfig(TreeConfig):
    """A folder of images of any mode and size, searched recursively in sorted order.

    Args:
        path: the folder. Hidden files and folders are skipped.
    """

    name: Literal["folder"] = "folder"


class ZipConfig(TreeConfig):
    """A zip archive of images, also with the StyleGAN tools' dataset.json, read in place.

    Args:
        path: the archive. Hidden members, links and nested archives are skipped.
    """

    name: Literal["zip"] = "zip"


class TarConfig(EncodedConfig):
    """Tar shards of images in WebDataset format: members that share a key are one sample.

    Args:
        path: a shard (``.tar``, or gzipped), a folder of shards, or a pattern such as ``x-{000000..000009}.tar`` or
            ``x-*.tar``.
        labels: ``auto`` reads each sample's ``.cls`` (an integer or a name), else ``label`` or ``class`` in its
            ``.json``; if no sample has either, it uses class folders as for a folder. ``folders`` and ``leaf`` as for
            a folder; ``none`` reads none.
        captions: ``auto`` reads each sample's ``.txt`` (one caption per line), else ``caption``, ``text`` or ``prompt``
            in its ``.json``, a string or a list of strings.
        split: as for a folder, by the names of the shards (``train-000.tar``) or of the folders that contain them or
            are in them; a shard given as ``path`` is always read.
        image_column: which image of each sample to use, by the part after the key: ``left`` or ``left.png`` of
            ``0001.left.png``; ``None`` takes ``0001.png``, or the only image.
    """

    name: Literal["tar"] = "tar"
    labels: Literal["auto", "folders", "leaf", "none"] = "auto"
    split: LocationText | None = None
    image_column: LocationText | None = None
