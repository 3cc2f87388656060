"""``undiffuse compare``: one set of images against another, whatever made them, into a table and a JSON file."""

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
from undiffuse.claims import claimed
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.config import ImageConfig
from undiffuse.data.dataset import ArrayDataset, Dataset
from undiffuse.data.readers.decoding.notes import storage_record
from undiffuse.errors import UsageError
from undiffuse.evaluation import PAIR_METRICS, Cache, Pair, compare_sets, default_pair_metrics
from undiffuse.files import write_json
from undiffuse.metrics import check_images
from undiffuse.models.files.weights import WEIGHTS
from undiffuse.observer import Observing, note, observing, stage
from undiffuse.registry import known_keywords, lookup
from undiffuse.sealed import sealed
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
    """Measure ``images`` against ``reference``.

    Args:
        images: to measure: uint8 (N, C, H, W), a data set, or what ``undiffuse compare`` takes as A.
        reference: real images, likewise; where both are read from files, the former are brought to their shape.
        metrics: rows of ``PAIR_METRICS``; by default those that the sets are large enough for.
        num: images of each set at most, evenly spaced.
        counts: also measure so many images of each set; ``by_count`` in the result.
        features: a row of ``metrics.FEATURES``, or ``auto``.
        size: bring both to this size first (of sets that are read from files).
        use_cache: take results and summaries from the user's cache, and keep new ones in it.
        options: ``key=value`` of both sources where they know the key, such as ``data.on_error=skip``.
        out: a JSON file to write as well.
        observer: hears of progress.
        cancel: asks the work to stop, from any thread.
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
    with observing(observer, cancel), claimed(where), stage("comparing") as listener:
        generated, held = load_pair(images, reference, size, options)
        _check_counts(counts, generated, held)
        cache = Cache.of_user(use_cache)
        result = _measured(Pair(generated, held, num, features, cache, listener), metrics)
        by_count = [_measured(Pair(generated, held, count, features, cache, listener), metrics) for count in counts]
        if by_count:
            result["by_count"] = [
                {"num": count, "results": part["results"]} for count, part in zip(counts, by_count, strict=True)
            ]
        if where is not None:
            write_json(where, sealed(result))
        return result


def _measured(pair: Pair, metrics: Sequence[str]) -> dict[str, Any]:
    names, left_out = (list(metrics), "") if metrics else default_pair_metrics(pair)
    if left_out:
        note(left_out)
    return compare_sets(pair, names)


def _check_counts(counts: Sequence[int], generated: Dataset, held: Dataset) -> None:
    fewest = min(len(generated), len(held))
    if counts and counts[-1] > fewest:
        raise UsageError(f"--counts goes up to {counts[-1]}, the smaller set has {fewest} images; ask for fewer")


def load_pair(
    images: Images, reference: Images, size: int | str | None = None, options: Sequence[str] = ()
) -> tuple[Dataset, Dataset]:
    """Both sets, the first brought to the size of the second where it is read from files.

    Args:
        images: see ``compare``.
        reference: see ``compare``.
        size: that both are brought to first.
        options: ``key=value`` of both sources where they know the key.
    Raises:
        UsageError: unreadable, points, images that would have to be enlarged, or a grey set with a coloured one.
    """
    generated, held = _fitted_pair(images, reference, size, options)
    stored = [storage_record(dataset.provenance) for dataset in (generated, held)]
    note_storage(_called(images, "the images"), stored[0], _called(reference), stored[1])
    return generated, held


def _fitted_pair(
    images: Images, reference: Images, size: int | str | None, options: Sequence[str]
) -> tuple[Dataset, Dataset]:
    named = [source_config_for(str(given)) for given in (images, reference) if isinstance(given, str | Path)]
    check_options(named, options)
    held = _dataset(reference, size, options)
    if not held.space.is_image:
        raise UsageError(f"images are compared, {_called(reference)} holds points; name a set of images")
    generated = _dataset(images, None, options)
    if generated.shape == held.shape or not isinstance(images, str | Path):
        return generated, held
    if not generated.space.is_image:
        raise UsageError(f"images are compared, {images} holds points; name a set of images")
    if generated.shape[0] != held.shape[0] and (has_colour(generated) or has_colour(held)):
        _check_colours(images, generated, reference, held)
    _check_not_enlarging(str(images), generated, _called(reference), held)
    note_resizing(str(images), generated.shape[1:], _called(reference), held.shape[1:])
    options = [*options, f"channels={held.shape[0]}"]  # nothing is lost by it, as was just seen
    own = supported_options(source_config_for(str(images)), [option for option in options if not _is_size(option)])
    return fitted_data(str(images), held.shape, _called(reference), options=own), held


def _check_colours(images: str | Path, generated: Dataset, reference: Images, held: Dataset) -> None:
    """A reference that was handed over as an array stays as it is; of a file, either may be asked for if it can be."""
    if not isinstance(reference, str | Path):
        ways = [held.shape[0]]
    else:
        grey = images if generated.shape[0] == 1 else reference
        ways = [1, *([3] if isinstance(source_config_for(str(grey)), ImageConfig) else [])]
    check_colours(str(images), generated.shape[0], _called(reference), held.shape[0], ways)


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
    """A run's previews are grids of samples: as a folder of images they would give numbers that mean nothing."""
    folder = Path(given).expanduser()
    if (folder / "config.json").is_file() and (folder / WEIGHTS["ema"]).is_file():
        raise UsageError(
            f"{given} is a run, and sets of images are compared; measure it with: {command('evaluate', given)}, or "
            f"draw images first with: {command('sample', given)}"
        )


def _check_not_enlarging(images: str, generated: Dataset, reference: str, held: Dataset) -> None:
    """Say what to do where A is smaller than B; the data's own message speaks of a training."""
    (height, width), (other_height, other_width) = generated.shape[1:], held.shape[1:]
    if height < other_height or width < other_width:
        raise UsageError(
            f"the images of {images} are {height}x{width} (height x width), those of {reference} "
            f"{other_height}x{other_width}; bring both to one size that needs no enlarging: "
            f"--size {min(height, other_height)}x{min(width, other_width)}"
        )


def _called(given: Images, otherwise: str = "the reference") -> str:
    return str(given) if isinstance(given, str | Path) else otherwise
