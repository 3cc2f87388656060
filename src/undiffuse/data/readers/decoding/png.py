"""Split a PNG file into the chunks of its pixels and the chunks of its metadata.

Pillow receives only the pixel chunks. So broken metadata cannot prevent a valid image from being read, and header and
pixels are read with the same metadata: EXIF may follow the pixels, where Pillow finds it only after decoding. Layout
after the PNG specification (third edition), sections 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

from undiffuse.errors import UsageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">I4s")
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_METADATA = frozenset({b"eXIf", b"iCCP", b"cICP", b"acTL"}) | _TEXTS
_MAX_CHUNK = 2**24  # bytes of one metadata chunk, compressed and decompressed; larger chunks are ignored
_XMP = b"XML:com.adobe.xmp"
_RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")


class Png(NamedTuple):
    """The content of a PNG file.

    Attributes:
        pixels: the file without metadata; if only the header was read, it ends before the pixel data.
        depth: bits per value.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
        exif: all EXIF blocks, in order of precedence.
        xmp: empty if there is none.
        profile: the ICC profile; empty if there is none.
        cicp: primaries, transfer, matrix, full range; empty if there is none.
        num_frames: of an animation, else 1.
        broken: types of the chunks that could not be read.
    """

    pixels: bytes
    depth: int = 0
    colour_type: int = 0
    exif: tuple[bytes, ...] = ()
    xmp: bytes = b""
    profile: bytes = b""
    cicp: bytes = b""
    num_frames: int = 1
    broken: frozenset[str] = frozenset()


def read_png(file: BinaryIO, header_only: bool) -> Png:
    """Read a file to its end, without its pixels if ``header_only``.

    A truncated or invalid file yields truncated or invalid pixels, for which Pillow raises an error.

    Raises:
        UsageError: the pixels do not match their checksum, which Pillow ignores.
    """
    pixels, metadata = [file.read(len(SIGNATURE))], _Metadata()
    at_pixels = False
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, kind = _HEAD.unpack(head)
        if kind == b"IDAT" and header_only:
            pixels += [] if at_pixels else [head]  # as much as Pillow needs to determine the size
            at_pixels = True
            file.seek(length + 4, 1)
        elif kind in _PIXELS or not kind[0] & 0x20:  # unknown critical chunks are passed to Pillow
            pixels += [] if at_pixels else [head, _checked_rest(kind, length, file.read(length + 4))]
        elif kind in _METADATA and length <= _MAX_CHUNK:
            metadata.take(kind, file.read(length), file.read(4))
        else:
            file.seek(length + 4, 1)
        if kind == b"IEND":
            break
    start = b"".join(pixels[:3])
    depth, colour_type = start[24:26] if len(start) > 25 else (0, 0)
    return metadata.png(b"".join(pixels), depth, colour_type)


def _checked_rest(kind: bytes, length: int, rest: bytes) -> bytes:
    """Content and checksum of a chunk, verified for IDAT: a flipped bit may decompress to other pixels."""
    if kind == b"IDAT" and len(rest) == length + 4:
        content = memoryview(rest)[:length]
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(rest[length:], "big"):
            raise UsageError("damaged: its pixels do not match their checksum")
    return rest


class _Metadata:
    """Content of the metadata chunks; the first of each type counts."""

    def __init__(self) -> None:
        self._chunks, self._texts, self._broken = dict[bytes, bytes](), dict[bytes, bytes](), set[str]()

    def take(self, kind: bytes, content: bytes, check: bytes) -> None:
        """Add one chunk and its checksum."""
        try:
            if zlib.crc32(kind + content) != int.from_bytes(check, "big"):
                raise ValueError("checksum")
            if kind in _TEXTS:
                key, text = _text(kind, content)
                if key in (_XMP, *_RAW_EXIF):
                    self._texts.setdefault(key, text)
            elif kind != b"cICP" or len(content) == 4:
                self._chunks.setdefault(kind, _profile(content) if kind == b"iCCP" else content)
        except (ValueError, zlib.error):
            self._broken.add(kind.decode("latin-1"))

    def png(self, pixels: bytes, depth: int, colour_type: int) -> Png:
        """The result for these pixels."""
        raw = [self._raw_exif(self._texts[key]) for key in _RAW_EXIF if key in self._texts]
        exif = tuple(part for part in (self._chunks.get(b"eXIf", b""), *raw) if part)
        return Png(
            *(pixels, depth, colour_type, exif),
            xmp=self._texts.get(_XMP, b""),
            profile=self._chunks.get(b"iCCP", b""),
            cicp=self._chunks.get(b"cICP", b""),
            num_frames=max(1, int.from_bytes(self._chunks.get(b"acTL", b"")[:4], "big")),
            broken=frozenset(self._broken),
        )

    def _raw_exif(self, text: bytes) -> bytes:
        """Parse ImageMagick's text: a line with a name, a line with the length, and lines of hexadecimal digits."""
        try:
            return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
        except ValueError:
            self._broken.add("eXIf")
            return b""


def _text(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """(key, text) of a text chunk."""
    key, _, text = content.partition(b"\0")
    if kind == b"tEXt":
        return key, text
    if kind == b"zTXt":
        return key, _unpacked(text[1:])
    packed, rest = text[:1] == b"\1", text[2:].split(b"\0", 2)
    if len(rest) < 3:
        raise ValueError("an iTXt chunk without its parts")
    return key, _unpacked(rest[2]) if packed else rest[2]


def _profile(content: bytes) -> bytes:
    found = _unpacked(content.partition(b"\0")[2][1:])
    if not found:
        raise ValueError("an empty profile")
    return found


def _unpacked(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    found = stream.decompress(data, _MAX_CHUNK)
    if not stream.eof:
        raise ValueError("more than is unpacked, or cut short")
    return found
