"""Detection of the kind of data in a file or folder, from its content. Imports neither torch nor Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from undiffuse.data.config import (
    ArraysConfig,
    CelebaConfig,
    CifarConfig,
    EmnistConfig,
    EmojiConfig,
    FfhqConfig,
    IdxConfig,
    LmdbConfig,
    ParquetConfig,
    SourceConfig,
    TarConfig,
    ZipConfig,
)
from undiffuse.data.sources.idx_files import has_idx_files, looks_like_idx
from undiffuse.data.sources.layout import published_files as published
from undiffuse.data.sources.layout.tar_files import looks_like_tar, shards_in
from undiffuse.data.sources.layout.zip_files import looks_like_zip

#: Detectors of files and folders, tried in this order; a folder that none matches is a folder of images.
FILES: tuple[tuple[Callable[[Path], bool], type[SourceConfig]], ...] = (
    (looks_like_idx, IdxConfig),
    (published.looks_like_arrays, ArraysConfig),
    (published.looks_like_cifar, CifarConfig),
    (published.looks_like_emnist, EmnistConfig),
    (published.looks_like_table, ParquetConfig),
    (published.looks_like_lmdb, LmdbConfig),
    (published.looks_like_emoji, EmojiConfig),
    (published.looks_like_celeba, CelebaConfig),
    (published.looks_like_ffhq, FfhqConfig),
    (looks_like_zip, ZipConfig),
    (looks_like_tar, TarConfig),
)
FOLDERS: tuple[tuple[Callable[[Path], bool], type[SourceConfig]], ...] = (
    (has_idx_files, IdxConfig),
    (published.has_cifar_files, CifarConfig),
    (published.has_tables, ParquetConfig),
    (published.has_lmdb, LmdbConfig),
    (published.has_emoji, EmojiConfig),
    (published.has_celeba, CelebaConfig),
    (published.has_ffhq, FfhqConfig),
    (lambda folder: bool(shards_in(folder)), TarConfig),
)
