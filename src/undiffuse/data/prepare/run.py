"""Implementation of ``undiffuse data prepare``: list, plan, process in parallel, write; resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from undiffuse.cores import num_cores
from undiffuse.data.config import EncodedConfig, ImageConfig, SourceConfig
from undiffuse.data.prepare import manifest
from undiffuse.data.prepare.checks import check_archive
from undiffuse.data.prepare.originals import ArrayOriginals, Originals, open_originals
from undiffuse.data.prepare.progress_log import ProgressLog, Row, read_header, read_rows
from undiffuse.data.prepare.seen import SeenHashes
from undiffuse.data.prepare.settings import PrepareSettings
from undiffuse.data.prepare.work import DUPLICATE, FAULTS, KEPT, HeaderScan, PrepareBlocks, PreparedImage
from undiffuse.data.prepare.worker_pool import Block, in_order
from undiffuse.data.prepare.zip_writer import member_bytes, member_size
from undiffuse.data.readers.decoding.image import DECODER_VERSION
from undiffuse.data.storage.encoded import Preprocessing, preprocessing_for
from undiffuse.errors import UsageError
from undiffuse.files import translate_os_errors
from undiffuse.locking import locks
from undiffuse.observer import SILENT, Observer
from undiffuse.wording import count_noun

_BLOCK, _BLOCK_BYTES = 64, 2**22
_IGNORED = {
    "name",
    "path",
    "validation_fraction",
    "on_error",
    "cache",
}  # options of the source that do not affect the images


@locks("out")
def prepare(
    config: SourceConfig,
    out: Path,
    settings: PrepareSettings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    observer: Observer = SILENT,
) -> dict[str, Any]:
    """Write the images of a source to an archive, preprocessed exactly as for training on the source.

    If it is killed at any time, calling it again resumes; the resulting archive is bit-identical.

    Args:
        config: the source, with size, channels, fit, upscale and background.
        out: the archive, ``.zip``. While it is being written, ``.zip.partial`` and its log are in the same folder.
        settings: filters and error handling.
        workers: number of processes; all cores by default.
        overwrite: replace an existing archive, or an unfinished one with other settings.
        observer: receives the current phase, the number of processed images and the total.

    Returns:
        The manifest.

    Raises:
        UsageError: the source has no images, the options do not match it, the archive must not be replaced, or
            (unless ``on_error=skip``) an image cannot be read or is too small.
            Its subclass HeldError: another process is writing the same archive.
        RunError: the disk is full, or a worker was killed.
    """
    settings = settings or PrepareSettings()
    check_archive(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(config, EncodedConfig):
        config = config.model_copy(update={"on_error": settings.on_error})
    with contextlib.suppress(AttributeError):
        _check_not_itself(config.location, out)  # type: ignore[attr-defined]
    originals = open_originals(config)
    assert isinstance(config, ImageConfig)
    task = _Task(config, originals, out, settings, workers or num_cores(), observer)
    with translate_os_errors(out):
        return task.run(overwrite)


def _check_not_itself(source: Path, out: Path) -> None:
    if source.resolve() == out.resolve():
        raise UsageError(f"--out {out} is the source itself; name another file")


class _Start(NamedTuple):
    """State to resume from."""

    plan: Preprocessing
    head: dict[str, Any]
    num_done: int = 0
    data_end: int = 0
    log_end: int = 0


class _Task:
    def __init__(
        self,
        config: ImageConfig,
        originals: Originals,
        out: Path,
        settings: PrepareSettings,
        workers: int,
        observer: Observer,
    ) -> None:
        self._config, self._originals, self._out = config, originals, out
        self._settings, self._workers, self._observer = settings, workers, observer
        self._data = out.with_name(out.name + ".partial")
        self._index = out.with_name(out.name + ".partial.journal")  # data
        self._seen = SeenHashes(len(originals))
        self._kept = array("I", [0]) * len(originals)  # by the index in the archive

    def run(self, overwrite: bool) -> dict[str, Any]:
        if overwrite or not self._data.exists():
            self._index.unlink(missing_ok=True)
        start = self._start(overwrite)
        log = ProgressLog(self._data, self._index, start.head, start.data_end, start.log_end)
        try:
            self._work(start, log)
            found = self._finish(start.plan, log)
        finally:
            log.close()
        self._data.replace(self._out)
        self._index.unlink()
        return found

    def _start(self, overwrite: bool) -> _Start:
        requested = self._requested()
        digest = hashlib.blake2b(digest_size=16)
        for index in range(len(self._originals)):
            digest.update(self._originals.key(index))
        listing = digest.hexdigest()
        old = read_header(self._index)
        if old is None:
            plan = self._plan()
            return _Start(plan, {"wanted": requested, "listing": listing, "plan": dataclasses.asdict(plan)})
        self._check_same_output(old, requested)
        # the plan may differ if the source has changed
        plan = _plan_of(old["plan"]) if old["listing"] == listing else self._plan()
        head = {"wanted": requested, "listing": listing, "plan": dataclasses.asdict(plan)}
        if json.loads(json.dumps(head["plan"])) != old["plan"]:
            return _Start(plan, head)
        return _Start(plan, head, *self._resume_point())

    def _requested(self) -> dict[str, Any]:
        source = self._config.model_dump(mode="json", exclude=_IGNORED)
        what = {"format": manifest.FORMAT, "decoding": DECODER_VERSION, "source": self._config.name}
        return {**what, **source, **self._settings.model_dump()}

    def _check_same_output(self, old: dict[str, Any], requested: dict[str, Any]) -> None:
        before = old.get("wanted", {})
        if before.get("decoding") != DECODER_VERSION:
            raise UsageError(
                f"{self._data} was started by another version, which decodes some images differently; add --overwrite "
                "to start over, or name another --out"
            )
        for key, value in json.loads(json.dumps(requested)).items():
            if key != "on_error" and before.get(key) != value:  # faults are handled in _resume_point
                raise UsageError(
                    f"{self._data} was started with {key}={before.get(key)} and not {value}; resume with that, name "
                    "another --out, or add --overwrite to start over"
                )

    def _resume_point(self) -> tuple[int, int, int]:
        """(number of finished images, end of the archive's data, end of the log)."""
        size = self._data.stat().st_size
        done = data_end = log_end = 0
        for row, end in read_rows(self._index):
            grown = data_end + (
                member_size(manifest.image_name(len(self._seen)), row.size) if row.reason == KEPT else 0
            )
            if done >= len(self._originals) or row.key != self._originals.key(done) or grown > size:
                break
            if row.reason in FAULTS and self._settings.on_error == "fail":
                break
            if row.reason == KEPT:
                self._remember(row.pixel_hash, done)
            done, data_end, log_end = done + 1, grown, end
        return done, data_end, log_end

    def _plan(self) -> Preprocessing:
        """The plan as for training: from the image headers, unless size and channels are given."""
        config = self._config
        if config.target is not None and config.channels is not None:
            return Preprocessing(config.target, config.channels, config.fit, config.upscale, config.background)
        count = 1 if isinstance(self._originals, ArrayOriginals) else len(self._originals)
        headers, first_error = np.empty((count, 3), dtype=np.int32), ""
        blocks, num = _blocks(0, count, _BLOCK), 0
        for (_, end), found in zip(blocks, in_order(HeaderScan(self._originals), blocks, self._workers), strict=True):
            for header in found:
                if not isinstance(header, str):
                    headers[num] = header
                    num += 1
                elif self._settings.on_error == "fail":
                    raise self._fault(header)
                first_error = first_error or (header if isinstance(header, str) else "")
            self._observer.progress(end, count, "looking")
        if num == 0:
            raise UsageError(f"none of the {count_noun(count, 'image')} can be used; the first: {first_error}")
        return preprocessing_for(config, headers[:num])[0]

    def _work(self, start: _Start, log: ProgressLog) -> None:
        bytes_each = 3 * math.prod(start.plan.shape)
        blocks = _blocks(start.num_done, len(self._originals), max(1, min(_BLOCK, _BLOCK_BYTES // bytes_each)))
        work = PrepareBlocks(self._originals, start.plan, self._settings.filters)
        results = in_order(work, blocks, self._workers)
        try:
            for (first, end), prepared in zip(blocks, results, strict=True):
                for index, image in enumerate(prepared, start=first):
                    self._take(index, image, log)
                self._observer.progress(end, len(self._originals), "preparing")
        finally:
            log.commit()
            results.close()  # type: ignore[attr-defined]

    def _take(self, index: int, image: PreparedImage, log: ProgressLog) -> None:
        if image.reason in FAULTS and self._settings.on_error == "fail":
            raise self._fault(image.text)
        reason, text, number = image.reason, image.text, len(self._seen)
        if reason == KEPT and self._settings.duplicates == "drop":
            first = self._seen.first(image.pixel_hash)
            if first is not None:
                reason, text = DUPLICATE, self._same_as(index, self._kept[first])
        crc = zlib.crc32(image.png) if reason == KEPT else 0
        size = len(image.png) if reason == KEPT else 0
        row = Row(self._originals.key(index), reason, size, crc, image.pixel_hash, image.source_hash, text)
        if reason == KEPT:
            self._remember(image.pixel_hash, index)
        log.add(row, member_bytes(manifest.image_name(number), image.png, crc) if reason == KEPT else b"")

    def _remember(self, pixel_hash: bytes, index: int) -> None:
        self._kept[len(self._seen)] = index
        self._seen.add(pixel_hash)

    def _same_as(self, index: int, first: int) -> str:
        labels, captions = self._originals.labels, self._originals.captions
        text = f"{self._originals.title(index)}: the same as {self._originals.title(first)}"
        if labels is not None and labels[index] != labels[first]:
            text += f", but of class {self._originals.class_names[labels[index]]}"
        if captions is not None and captions[index] != captions[first]:
            text += f", but with the caption {captions[index]!r}"
        return text

    def _fault(self, text: str) -> UsageError:
        return UsageError(f"{text}; fix or remove it and run again, or skip it with data.on_error=skip")

    def _finish(self, plan: Preprocessing, log: ProgressLog) -> dict[str, Any]:
        log.commit()
        if not len(self._seen):
            dropped = manifest.summary(self._originals, self._rows())["dropped"]
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped["reasons"].items())
            raise UsageError(f"none of the {len(self._originals)} images is left to write ({reasons})")
        self._seen, self._kept = SeenHashes(), array("I")  # free memory for the metadata files
        settings = {**self._requested(), **dataclasses.asdict(plan)}
        location = str(getattr(self._config, "location", ""))
        found = manifest.build(self._originals, self._rows(), location, settings)
        log.finish(lambda file: manifest.write_lists(file, self._originals, self._rows, found))
        return found

    def _rows(self) -> Iterator[Row]:
        return (row for row, _ in read_rows(self._index))


def _blocks(start: int, end: int, size: int) -> list[Block]:
    return [(first, min(first + size, end)) for first in range(start, end, size)]


def _plan_of(values: dict[str, Any]) -> Preprocessing:
    """Decode a plan from JSON, where pairs are lists."""
    background = values["background"]
    ground = tuple(background) if isinstance(background, list) else background
    return Preprocessing(**{**values, "size": tuple(values["size"]), "background": ground})
