"""Configuration of the sources of encoded image files."""

from __future__ import annotations

from typing import Literal

from undiffuse.data.config.base import EncodedConfig, LocationText

TreeLabels = Literal["auto", "metadata", "folders", "leaf", "prefix", "none"]


class TreeConfig(EncodedConfig):
    """What a folder and an archive of one have in common.

    Args:
        split: which part is taken where the folders are called after the parts of a set, such as ``train``, ``val``,
            ``test``: a folder's name, ``train``, ``validation`` or ``test``, or ``all``. ``None`` takes the part for
            training where every folder is called so, and the images alone of ``images`` and ``masks``; ``none`` takes
            every folder as it is.
        labels: where the classes come from. ``metadata``: what ``dataset.json``, ``metadata.jsonl`` or a JSON file
            next to each image says. ``folders``: a class of each sub-folder of the first level; ``leaf``: of each
            deepest folder. ``prefix``: the name of the file before its final ``_`` or ``-`` and number, as in
            ``cat_001.png``. ``none``: no classes. ``auto`` takes ``metadata`` where there are labels in it, else
            ``folders`` where every image lies exactly one level down, in two sub-folders or more that are not mere
            numbers of five digits or more; else none.
        captions: ``auto`` reads the ``.txt`` or ``.json`` next to each image, else ``metadata.jsonl`` or
            ``metadata.csv``.
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
        path: the archive. Hidden members, links and archives within it are skipped.
    """

    name: Literal["zip"] = "zip"


class TarConfig(EncodedConfig):
    """Tar shards of images as WebDataset has them: members that share a key are one sample.

    Args:
        path: a shard (``.tar``, or gzipped), a folder of shards, or a pattern such as ``x-{000000..000009}.tar`` or
            ``x-*.tar``.
        labels: ``auto`` reads each sample's ``.cls`` (a whole number or a name), else ``label`` or ``class`` in its
            ``.json``; where no sample has either, it takes class folders as a folder's ``auto`` does. ``folders`` and
            ``leaf`` are a folder's too; ``none`` reads none.
        captions: ``auto`` reads each sample's ``.txt``, else ``caption``, ``text`` or ``prompt`` in its ``.json``.
        split: as of a folder, by the names of the shards (``train-000.tar``), of the folders they lie in or of those
            in them; a shard that is named itself is read whatever it is called.
        image_column: which image of each sample is taken, by what follows the key: ``left`` or ``left.png`` of
            ``0001.left.png``; ``None`` takes ``0001.png``, or the only one.
    """

    name: Literal["tar"] = "tar"
    labels: Literal["auto", "folders", "leaf", "none"] = "auto"
    split: LocationText | None = None
    image_column: LocationText | None = None
