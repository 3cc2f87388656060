"""``undiffuse data prepare``: from the words of the command line to an archive, and what was done in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.app.early_numbers import check_workers
from undiffuse.app.show import Working, say, table
from undiffuse.app.sources import configured, prepare_settings
from undiffuse.data import source_config_for
from undiffuse.data.config import ImageConfig
from undiffuse.data.prepare import prepare
from undiffuse.data.readers.decoding.remarks import STORED
from undiffuse.errors import UsageError
from undiffuse.wording import command, counted, quoted

_MOST_CLASSES = 20  # named with their counts
_OF_THE_SOURCE = {
    "skipped": "left out by the reader",
    "left_out": "not read",
    "splits": "parts",
    "masks": "masks",
    "classes_joined": "classes joined",
}
_SHOWN = 5  # pictures left out that are named on the terminal


def prepare_to_file(
    source: str,
    out: Path,
    *,
    options: Sequence[str],
    given: Mapping[str, Any],
    filters: Sequence[str],
    keep_duplicates: bool,
    on_error: str,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Prepare a source and print what came of it.

    Args:
        source: as for ``--data``.
        options: ``key=value`` of the source's configuration.
        given: the same from options of their own, with ``None`` for what was not given.
        filters: ``key=value`` of ``Filters``.
    """
    check_workers(workers)
    config = configured(_source_of_pictures(source), options, given)
    settings = prepare_settings(filters, keep_duplicates, on_error, getattr(config, "on_error", "fail"))
    with Working() as observer:
        manifest = prepare(config, out, settings, workers=workers, overwrite=overwrite, observer=observer)
    _show(manifest, out)


def _source_of_pictures(source: str) -> ImageConfig:
    config = source_config_for(source)
    if not isinstance(config, ImageConfig):
        raise UsageError(f"the source {config.name!r} has points; expected one of pictures")
    return config


def _show(manifest: Mapping[str, Any], out: Path) -> None:
    pictures, dropped, source = manifest["pictures"], manifest["dropped"], manifest["source"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped["reasons"].items()) or "none"
    size = out.stat().st_size
    settings = {key: value for key, value in manifest["settings"].items() if value not in ([], None)}
    rows = [
        ["source", f"{source['location'] or source['kind']}: {counted(source['num_pictures'], 'item')}"],
        ["written", f"{pictures['num']} of {pictures['height']}x{pictures['width']}, {_colours(pictures)}"],
        ["classes", _classes(pictures["classes"])],
        ["captions", "yes" if pictures["captions"] else "none"],
        ["left out", reasons],
        *[["", _without(source["location"], entry["text"])] for entry in dropped["first"][:_SHOWN]],
        *[[title, source[key]] for key, title in _OF_THE_SOURCE.items() if key in source],
        *[[key.replace("_", " "), manifest[key]] for key in ("decoding", *STORED.values()) if key in manifest],
        ["size", f"{size / 2**20:.1f} MiB, {size / pictures['num']:.0f} bytes a picture"],
        ["settings", json.dumps(settings)],
        ["hash of all", pictures["hash"]],
    ]
    table(str(out), ["", ""], rows)
    look = command("data", "info", out, "--sheet", "sheet.png")
    say(f"done: {out}; next: {look}, or train with --data {quoted(out)}")


def _colours(pictures: Mapping[str, Any]) -> str:
    return "grey" if pictures["channels"] == 1 else "RGB"


def _classes(counts: Mapping[str, int]) -> str:
    if len(counts) > _MOST_CLASSES:
        return f"{len(counts)} of {min(counts.values())} to {max(counts.values())} pictures"
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def _without(location: str, text: str) -> str:
    """The names in a text without the place that all of them have in common."""
    return text.replace(f"{location}!", "").replace(f"{location}/", "") if location else text
