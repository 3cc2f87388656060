"""The metadata files of a prepared archive."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from undiffuse.captions import alternatives_of
from undiffuse.data.prepare.originals import Originals
from undiffuse.data.prepare.progress_log import Row
from undiffuse.data.prepare.seen import SeenHashes
from undiffuse.data.prepare.work import KEPT, REASONS
from undiffuse.data.prepare.zip_writer import Member, ZipEnd
from undiffuse.data.readers.decoding.notes import STORED, DecodingNotes
from undiffuse.version import __version__

FORMAT = "undiffuse prepared pictures, version 1"  # data
MAX_NAMED = 100  # skipped images listed in the manifest; the others are counted

Write = Callable[[bytes], object]


def image_name(number: int) -> str:
    """Name of the image with this number, from 0, as in the StyleGAN and EDM tools."""
    digits = f"{number:08d}"
    return f"{digits[:5]}/img{digits}.png"


def selected_rows(rows: Iterable[Row]) -> Iterator[tuple[int, int, Row]]:
    """(index in the archive, index in the source, row) of each selected image."""
    number = 0
    for index, row in enumerate(rows):
        if row.reason == KEPT:
            yield number, index, row
            number += 1


def members(rows: Iterable[Row]) -> Iterator[Member]:
    """The images in the archive, in order."""
    for number, _, row in selected_rows(rows):
        yield Member(image_name(number), row.crc, row.size)


def write_dataset_json(write: Write, originals: Originals, rows: Iterable[Row]) -> None:
    """Write ``{"labels": [[name, class index], ...]}`` (``null`` without labels) and the class names."""
    if originals.labels is None:
        write(b'{"labels": null}\n')
        return
    write(b'{"labels": [')
    for number, index, _ in selected_rows(rows):
        comma = b",\n" if number else b"\n"
        write(comma + f'["{image_name(number)}", {originals.labels[index]}]'.encode())
    write(b'\n], "class_names": ' + json.dumps(list(originals.class_names), ensure_ascii=False).encode() + b"}\n")


def write_captions(write: Write, originals: Originals, rows: Iterable[Row]) -> None:
    """Write one line per image, in the format of Hugging Face's ``imagefolder``."""
    assert originals.captions is not None
    for number, index, _ in selected_rows(rows):
        captions = alternatives_of(originals.captions[index])
        line = {"file_name": image_name(number), "text": captions if len(captions) > 1 else captions[0]}
        write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")


def write_hashes(write: Write, rows: Iterable[Row], count: int) -> None:
    """Write 12 bytes per image: 8 leading bytes of the hash of the original, and its CRC in the archive, little-endian.

    With these hashes the set is split like its source; the CRC detects images that were replaced. Images with equal
    pixels share the hash of the first one, so that they are on the same side of the split.
    """
    seen, found = SeenHashes(count), bytearray(8 * count)
    for number, _, row in selected_rows(rows):
        first = seen.first(row.pixel_hash)
        seen.add(row.pixel_hash)
        found[8 * number : 8 * number + 8] = row.source_hash[:8]
        leading = number if first is None else first
        write(bytes(found[8 * leading : 8 * leading + 8]) + struct.pack("<L", row.crc))


def summary(originals: Originals, rows: Iterable[Row]) -> dict[str, Any]:
    """The image statistics of the manifest: counts and hash, dropped images, and the fingerprint."""
    reasons, classes, named = Counter[str](), Counter[int](), list[dict[str, str]]()
    found, content, num_kept = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16), 0
    decoding = DecodingNotes()
    for index, row in enumerate(rows):
        label = -1 if originals.labels is None else int(originals.labels[index])
        found.update(row.source_hash + label.to_bytes(8, "little", signed=True) + _caption(originals, index))
        if row.reason == KEPT:
            content.update(row.pixel_hash)
            decoding.take(row.text.splitlines())
            classes[label] += 1
            num_kept += 1
        else:
            reasons[REASONS[row.reason]] += 1
            if len(named) < MAX_NAMED:
                named.append({"reason": REASONS[row.reason], "text": row.text})
    counts = {name: classes[number] for number, name in enumerate(originals.class_names)}
    captions = originals.captions is not None
    return {
        "fingerprint": found.hexdigest(),
        "pictures": {"num": num_kept, "classes": counts, "captions": captions, "hash": content.hexdigest()},  # data
        "dropped": {"num": sum(reasons.values()), "reasons": dict(sorted(reasons.items())), "first": named},
        **decoding.report,
    }


def _caption(originals: Originals, index: int) -> bytes:
    return b"" if originals.captions is None else originals.captions[index].encode("utf-8", "surrogateescape") + b"\0"


def build(originals: Originals, rows: Iterable[Row], location: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete manifest.

    Args:
        originals: the source.
        rows: results for its images.
        location: path of the source.
        settings: all settings that affect the images, with ``source``, its registry name, and the plan's ``size`` and
            ``channels``.
    """
    found = summary(originals, rows)
    height, width = settings["size"]
    source = {"kind": settings["source"], "location": location, "num_pictures": len(originals)}
    return {
        "format": FORMAT,
        "made_by": f"undiffuse {__version__}",
        "source": {**source, "fingerprint": found["fingerprint"], **originals.about},
        "settings": {key: value for key, value in settings.items() if key not in ("format", "decoding", "source")},
        "pictures": {"channels": settings["channels"], "height": height, "width": width, **found["pictures"]},  # data
        "dropped": found["dropped"],
        **{key: found[key] for key in ("decoding", *STORED.values()) if key in found},
    }


def write_lists(
    file: BinaryIO, originals: Originals, rows: Callable[[], Iterable[Row]], manifest: Mapping[str, Any]
) -> None:
    """Write the part of the archive after the images: the metadata files and the directory."""
    end = ZipEnd(file)
    with end.member("dataset.json") as write:
        write_dataset_json(write, originals, rows())
    if originals.captions is not None:
        with end.member("metadata.jsonl") as write:
            write_captions(write, originals, rows())
    with end.member("hashes.bin") as write:
        write_hashes(write, rows(), manifest["pictures"]["num"])  # data
    with end.member("manifest.json") as write:
        write(json.dumps(manifest, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
    end.write_directory(members(rows()))
