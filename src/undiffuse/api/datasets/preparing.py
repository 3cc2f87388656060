"""``prepare``: convert any source into one archive of images of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from undiffuse.api.arguments import check_workers
from undiffuse.api.configuration.sources import configured, prepare_settings
from undiffuse.cancellation import Cancel
from undiffuse.data import source_config_for
from undiffuse.data.config import ImageConfig
from undiffuse.data.prepare import prepare as write_archive
from undiffuse.data.readers.decoding.notes import STORED
from undiffuse.errors import UsageError
from undiffuse.observer import Observing, observing, stage
from undiffuse.registry import known_keywords

#: Default of ``given``: no option by key.
NOTHING_GIVEN: Mapping[str, Any] = MappingProxyType({})


@known_keywords
def prepare(
    source: str | Path,
    out: str | Path,
    *,
    options: Sequence[str] = (),
    given: Mapping[str, Any] = NOTHING_GIVEN,
    filters: Sequence[str] = (),
    keep_duplicates: bool = False,
    on_error: str = "fail",
    workers: int | None = None,
    overwrite: bool = False,
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Convert any source into one archive of images of one size, with labels, captions and a manifest.

    Args:
        source: a folder of images, an archive, or the name of a source.
        out: the archive, ``.zip``.
        options: ``key=value`` of the source's configuration, such as ``size=64``.
        given: the same by key, with ``None`` for keys that are not given.
        filters: ``key=value`` of ``Filters``, such as ``min_side=64``.
        keep_duplicates: keep images that are identical in every pixel.
        on_error: ``fail``, or ``skip`` and count images that cannot be read or are too small.
        workers: processes; all cores by default.
        overwrite: replace the archive, or an unfinished one with other settings.
        observer: receives progress in images.
        cancel: cancels the work; may be requested from any thread. The same call resumes it.
    Returns:
        The manifest.
    Raises:
        UsageError: no such source, unknown options, or an existing archive.
        CancelledError: it was cancelled.
    """
    check_workers(workers)
    with observing(observer, cancel):
        config = configured(_source_of_images(str(source)), options, given)
        settings = prepare_settings(filters, keep_duplicates, on_error, getattr(config, "on_error", "fail"))
        with stage("preparing", unit="images") as listener:
            where = Path(out).expanduser()
            return write_archive(config, where, settings, workers=workers, overwrite=overwrite, observer=listener)


def _source_of_images(source: str) -> ImageConfig:
    config = source_config_for(source)
    if not isinstance(config, ImageConfig):
        raise UsageError(f"the source {config.name!r} has {config.contents}; expected one of images")
    return config


def storage_notes(manifest: Mapping[str, Any]) -> list[str]:
    """Keys of a manifest with notes on how its images were stored and decoded."""
    return [key for key in ("decoding", *STORED.values()) if key in manifest]
