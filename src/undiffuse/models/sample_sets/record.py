"""What is recorded of samples, in ``samples.json`` and with those that Python holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, Protocol

from undiffuse.compute.environment import compute_environment
from undiffuse.files import json_text
from undiffuse.models.base import GenerativeModel
from undiffuse.models.request import SampleRequest
from undiffuse.sealed import CHECKSUM

_NO_ROWS = '"images": []'
_SETTING = "computed_with"  # the same for all, and too long to be said of each


class SampledModel(Protocol):
    """The model that samples are of, as far as they say so."""

    @property
    def module(self) -> GenerativeModel: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def path(self) -> Path: ...

    @property
    def weights_sha256(self) -> str: ...


def shared_record(model: SampledModel, request: SampleRequest) -> dict[str, Any]:
    """What all samples of a request have in common, but for what they cost, which is known when they are made.

    Args:
        model: that makes them.
        request: with the options that it gives.
    """
    return {
        "model": model.path.resolve().name,
        "model_sha256": model.weights_sha256,
        "recipe": model.config["config"].get("recipe", ""),
        **request.options.record(model.module.sampling_record()),
        _SETTING: compute_environment(
            model.config["config"].get("system", {}).get("precision", "fp32"), model.module.device
        ),
    }


def whole_record(
    shared: Mapping[str, Any], seeds: Sequence[int], names: Sequence[str | None], points: bool
) -> dict[str, Any]:
    """The content of ``samples.json``, with an entry per sample.

    Args:
        shared: the same of all, costs among it.
        seeds: one a sample.
        names: of their classes; none for a model without.
        points: whether the samples are rows of ``samples.npy`` instead of images in files.
    """
    return {**shared, "images": list(_rows(shared, seeds, names, points))}


def write_record(
    path: Path, shared: Mapping[str, Any], seeds: Sequence[int], names: Sequence[str | None], points: bool
) -> None:
    """``whole_record`` as sealed JSON in a file, written entry by entry: of many samples it would fill the memory.

    Args:
        path: of the file.
        shared: the same of all, costs among it.
        seeds: one a sample.
        names: of their classes; none for a model without.
        points: whether the samples are rows of ``samples.npy`` instead of images in files.
    """

    def rows() -> Iterator[dict[str, Any]]:
        return _rows(shared, seeds, names, points)

    bare = {**shared, "images": []}
    head, tail = json.dumps(bare, sort_keys=True).split(_NO_ROWS)
    digest = hashlib.sha256(f'{head}"images": ['.encode())
    for index, row in enumerate(rows()):
        digest.update((", " * (index > 0) + json.dumps(row, sort_keys=True)).encode())
    digest.update(f"]{tail}".encode())
    head, tail = json_text({**bare, CHECKSUM: digest.hexdigest()}).split(_NO_ROWS)
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{head}"images": [\n')
        for index, row in enumerate(rows()):
            file.write(",\n" * (index > 0) + indent(json_text(row).rstrip(), "    "))
        file.write(f"\n  ]{tail}")


def _rows(
    shared: Mapping[str, Any], seeds: Sequence[int], names: Sequence[str | None], points: bool
) -> Iterator[dict[str, Any]]:
    for index, seed in enumerate(seeds):
        alike = {key: value for key, value in shared.items() if key != _SETTING}
        own = {"seed": seed, "class": names[index] if names else None, **alike}
        file = "samples.npy" if points else f"{index:06d}.png"
        yield {"file": file, **own, **({"row": index} if points else {})}
