"""The record of samples, for ``samples.json`` and ``Samples``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, Protocol

from undiffuse.checksums import CHECKSUM
from undiffuse.compute.environment import compute_environment
from undiffuse.conditioning.prompt import Prompt
from undiffuse.files import json_text
from undiffuse.models.base import GenerativeModel
from undiffuse.models.prompts import text_record
from undiffuse.models.request import SampleRequest

_NO_ROWS = '"images": []'
_SETTING = "computed_with"  # the same for all samples, and too long to repeat for each


class SampledModel(Protocol):
    """The properties of a model that are recorded with its samples."""

    @property
    def module(self) -> GenerativeModel: ...

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def path(self) -> Path: ...

    @property
    def weights_sha256(self) -> str: ...

    @property
    def classifier(self) -> SampledModel | None: ...


def shared_record(model: SampledModel, request: SampleRequest) -> dict[str, Any]:
    """The part of the record that all samples of a request share, without costs, which are known after sampling.

    Args:
        model: the sampled model.
        request: the request with its options.
    """
    return {
        "model": model.path.resolve().name,
        "model_sha256": model.weights_sha256,
        "recipe": model.config["config"].get("recipe", ""),
        **request.options.record(model.module.sampling_record()),
        **classifier_record(model.classifier),
        _SETTING: compute_environment(
            model.config["config"].get("system", {}).get("precision", "fp32"), model.module.device
        ),
    }


def classifier_record(classifier: SampledModel | None) -> dict[str, str]:
    """The entries about the classifier of classifier guidance; empty for none.

    Args:
        classifier: the loaded classifier.
    """
    if classifier is None:
        return {}
    return {"classifier": classifier.path.resolve().name, "classifier_sha256": classifier.weights_sha256}


def full_record(
    shared: Mapping[str, Any], seeds: Sequence[int], prompts: Sequence[Prompt], points: bool
) -> dict[str, Any]:
    """The content of ``samples.json``, with an entry per sample.

    Args:
        shared: the shared part of the record, including costs.
        seeds: one seed per sample.
        prompts: prompts of the samples; empty for a model with neither classes nor text.
        points: whether the samples are rows of ``samples.npy`` instead of image files.
    """
    return {**shared, "images": list(_rows(shared, seeds, prompts, points))}


def write_record(
    path: Path, shared: Mapping[str, Any], seeds: Sequence[int], prompts: Sequence[Prompt], points: bool
) -> None:
    """Write ``full_record`` as JSON with a checksum, entry by entry to save memory.

    Args:
        path: path of the file.
        shared: the shared part of the record, including costs.
        seeds: one seed per sample.
        prompts: prompts of the samples; empty for a model with neither classes nor text.
        points: whether the samples are rows of ``samples.npy`` instead of image files.
    """

    def rows() -> Iterator[dict[str, Any]]:
        return _rows(shared, seeds, prompts, points)

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


def row_of(
    index: int, shared: Mapping[str, Any], seeds: Sequence[int], prompts: Sequence[Prompt], points: bool
) -> dict[str, Any]:
    """The entry of one sample in ``samples.json``, except for its file and row.

    Args:
        index: of the sample.
        shared: the shared part of the record.
        seeds: one seed per sample.
        prompts: prompts of the samples; empty for a model with neither classes nor text.
        points: whether the samples are points instead of images.
    """
    one = slice(index, index + 1)
    return next(_rows(shared, seeds[one], prompts[one], points))


def setting_of(shared: Mapping[str, Any]) -> dict[str, Any]:
    """The arithmetic settings in the shared part of a record."""
    return dict(shared.get(_SETTING, {}))


def _rows(
    shared: Mapping[str, Any], seeds: Sequence[int], prompts: Sequence[Prompt], points: bool
) -> Iterator[dict[str, Any]]:
    for index, seed in enumerate(seeds):
        repeated = {key: value for key, value in shared.items() if key != _SETTING}
        prompt = prompts[index] if prompts else Prompt()
        entry = {"seed": seed, "class": prompt.class_name, **text_record(prompt), **repeated}
        file = "samples.npy" if points else f"{index:06d}.png"
        yield {"file": file, **entry, **({"row": index} if points else {})}
