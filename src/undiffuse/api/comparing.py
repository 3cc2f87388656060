"""``undiffuse compare``: evaluate one set of images against another, of any origin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from undiffuse.api.arguments import check_texts
from undiffuse.api.configuration.sources import check_options, configured, read_option, sized, supported_options
from undiffuse.api.datasets.reference_data import (
    check_colours,
    fitted_data,
    has_colour,
    note_resizing,
    note_storage,
)
from undiffuse.api.outputs import check_file
from undiffuse.cancellation import Cancel
from undiffuse.checksums import with_checksum
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.config import ImageConfig
from undiffuse.data.dataset import ArrayDataset, Dataset
from undiffuse.data.readers.decoding.notes import storage_record
from undiffuse.errors import UsageError
from undiffuse.evaluation import PAIR_METRICS, Cache, Pair, compare_sets, default_pair_metrics
from undiffuse.files import write_json
from undiffuse.locking import locked
from undiffuse.metrics import check_images
from undiffuse.models.files.weights import WEIGHTS
from undiffuse.observer import Observing, note, observing, stage
from undiffuse.registry import known_keywords, lookup
from undiffuse.wording import command

Images = str | Path | Dataset | Tensor | npt.NDArray[Any]


@known_keywords
def compare(
    images: Images,
    reference: Images,
    metrics: Sequence[str] = (),
    *,
    num: int | None = None,
    counts: Sequence[int] = (),
    features: str = "auto",
    size: int | str | None = None,
    use_cache: bool = False,
    options: Sequence[str] = (),
    out: str | Path | None = None,
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Evaluate ``images`` against ``reference``.

    Args:
        images: to evaluate: uint8 (N, C, H, W), a data set, or a folder, archive or source.
        reference: real images, likewise; if both are read from files, the former are resized to their shape.
        metrics: rows of ``PAIR_METRICS``; by default those for which the sets are large enough.
        num: maximum number of images per set, evenly spaced.
        counts: also evaluate these numbers of images per set; ``by_count`` in the result.
        features: a row of ``metrics.FEATURES``, or ``auto``.
        size: resize both to this size first (for sets that are read from files).
        use_cache: read results and summaries from the user's cache and store new ones.
        options: ``key=value`` texts for the sources that have the key, such as ``data.on_error=skip``.
        out: a JSON file to write.
        observer: receives progress.
        cancel: cancels the work; may be requested from any thread.
    Returns:
        ``results`` with the protocol of each, and what was compared.
    Raises:
        UsageError: images that cannot be read or do not fit each other, or too few of them for a metric.
    """
    check_texts("metrics", metrics)
    for name in metrics:
        lookup(PAIR_METRICS, name, "metric")
    where = Path(out).expanduser() if out is not None else None
    check_file(where, "comparison.json")
    with observing(observer, cancel), locked(where), stage("comparing") as listener:
        generated, held = load_pair(images, reference, size, options)
        _check_counts(counts, generated, held)
        cache = Cache.of_user(use_cache)
        result = _evaluate(Pair(generated, held, num, features, cache, listener), metrics)
        by_count = [_evaluate(Pair(generated, held, count, features, cache, listener), metrics) for count in counts]
        if by_count:
            result["by_count"] = [
                {"num": count, "results": part["results"]} for count, part in zip(counts, by_count, strict=True)
            ]
        if where is not None:
            write_json(where, with_checksum(result))
        return result


def _evaluate(pair: Pair, metrics: Sequence[str]) -> dict[str, Any]:
    names, left_out = (list(metrics), "") if metrics else default_pair_metrics(pair)
    if left_out:
        note(left_out)
    return compare_sets(pair, names)


def _check_counts(counts: Sequence[int], generated: Dataset, held: Dataset) -> None:
    fewest = min(len(generated), len(held))
    if counts and counts[-1] > fewest:
        raise UsageError(f"--counts goes up to {counts[-1]}, but the smaller set has {fewest} images; request fewer")


def load_pair(
    images: Images, reference: Images, size: int | str | None = None, options: Sequence[str] = ()
) -> tuple[Dataset, Dataset]:
    """Load both sets; the first is resized to the second if it is read from files.

    Args:
        images: see ``compare``.
        reference: see ``compare``.
        size: to resize both to first.
        options: ``key=value`` texts for the sources that have the key.
    Raises:
        UsageError: unreadable sets, points, images that would be enlarged, or a grey and a colour set.
    """
    generated, held = _fitted_pair(images, reference, size, options)
    stored = [storage_record(dataset.provenance) for dataset in (generated, held)]
    note_storage(_name_of(images, "the images"), stored[0], _name_of(reference), stored[1])
    return generated, held


def _fitted_pair(
    images: Images, reference: Images, size: int | str | None, options: Sequence[str]
) -> tuple[Dataset, Dataset]:
    named = [source_config_for(str(given)) for given in (images, reference) if isinstance(given, str | Path)]
    check_options(named, options)
    held = _dataset(reference, size, options)
    if not held.space.is_image:
        raise UsageError(f"images are compared, but {_name_of(reference)} holds points; name a set of images")
    generated = _dataset(images, None, options)
    if generated.shape == held.shape or not isinstance(images, str | Path):
        return generated, held
    if not generated.space.is_image:
        raise UsageError(f"images are compared, but {images} holds points; name a set of images")
    if generated.shape[0] != held.shape[0] and (has_colour(generated) or has_colour(held)):
        _check_colours(images, generated, reference, held)
    _check_not_enlarging(str(images), generated, _name_of(reference), held)
    note_resizing(str(images), generated.shape[1:], _name_of(reference), held.shape[1:])
    options = [*options, f"channels={held.shape[0]}"]  # checked above: no colour is lost
    own = supported_options(source_config_for(str(images)), [option for option in options if not _is_size(option)])
    return fitted_data(str(images), held.shape, _name_of(reference), options=own), held


def _check_colours(images: str | Path, generated: Dataset, reference: Images, held: Dataset) -> None:
    """Raise for a grey and a colour set; an array as the reference cannot be converted, a file can."""
    if not isinstance(reference, str | Path):
        ways = [held.shape[0]]
    else:
        grey = images if generated.shape[0] == 1 else reference
        ways = [1, *([3] if isinstance(source_config_for(str(grey)), ImageConfig) else [])]
    check_colours(str(images), generated.shape[0], _name_of(reference), held.shape[0], ways)


def _is_size(option: str) -> bool:
    return read_option(option)[0] == "size"


def _dataset(given: Images, size: int | str | None, options: Sequence[str]) -> Dataset:
    if isinstance(given, Dataset):
        return given
    if isinstance(given, str | Path):
        _check_not_run(given)
        source = source_config_for(str(given))
        return load_dataset(sized(configured(source, supported_options(source, options)), size))
    import torch

    images = check_images(torch.as_tensor(given))
    return ArrayDataset("images", images.numpy())


def _check_not_run(given: str | Path) -> None:
    """Raise for a run folder, whose previews are grids of samples rather than single images."""
    folder = Path(given).expanduser()
    if (folder / "config.json").is_file() and (folder / WEIGHTS["ema"]).is_file():
        raise UsageError(
            f"{given} is a run, but sets of images are compared; evaluate it with: {command('evaluate', given)}, or "
            f"sample images first with: {command('sample', given)}"
        )


def _check_not_enlarging(images: str, generated: Dataset, reference: str, held: Dataset) -> None:
    """Raise if the images would have to be enlarged, with a size that avoids it."""
    (height, width), (other_height, other_width) = generated.shape[1:], held.shape[1:]
    if height < other_height or width < other_width:
        raise UsageError(
            f"the images of {images} are {height}x{width} (height x width), those of {reference} "
            f"{other_height}x{other_width}; bring both to one size that needs no enlarging: "
            f"--size {min(height, other_height)}x{min(width, other_width)}"
        )


def _name_of(given: Images, otherwise: str = "the reference") -> str:
    return str(given) if isinstance(given, str | Path) else otherwise
