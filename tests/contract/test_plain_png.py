"""Plain PNG files, read without a decoder: the same pixels as Pillow's, and nothing that Pillow would refuse."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from undiffuse.data.prepare.work import encode_png
from undiffuse.data.readers.decoding.image import read_image, to_array
from undiffuse.data.readers.decoding.plain_png import read_plain_png
from undiffuse.errors import UsageError


def image(channels: int = 3, height: int = 5, width: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1, 28, 28), (3, 5, 7), (3, 64, 64), (1, 2, 300)])
def test_what_prepare_writes_is_plain_and_reads_as_pillow_reads_it(shape: tuple[int, int, int]) -> None:
    pixels = image(*shape)
    content = encode_png(pixels)
    plain = read_plain_png(content, shape)
    assert plain is not None and plain.flags.c_contiguous
    assert np.array_equal(plain, pixels) and np.array_equal(plain, to_array(read_image(content)))


def test_a_image_of_another_shape_is_left_to_pillow() -> None:
    content = encode_png(image(3, 5, 7))
    assert all(read_plain_png(content, shape) is None for shape in [(3, 7, 5), (1, 5, 7), (3, 5, 8), (3, 6, 7)])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA", "I;16"])
def test_what_other_programs_write_is_read_rightly_or_left_to_pillow(mode: str) -> None:
    smooth = Image.linear_gradient("L").resize((16, 16))  # rows of it are filtered
    image = Image.new("I;16", (16, 16), 3000) if mode == "I;16" else smooth.convert(mode)
    for options in ({}, {"compress_level": 0}, {"pnginfo": None, "dpi": (72, 72)}):
        file = io.BytesIO()
        image.save(file, "png", **options)
        for channels in (1, 3):
            plain = read_plain_png(file.getvalue(), (channels, 16, 16))
            assert plain is None or np.array_equal(plain, to_array(read_image(file.getvalue())))


@settings(max_examples=300)
@given(place=st.integers(0, 10**6), value=st.integers(1, 255), shortened=st.booleans())
def test_a_damaged_file_is_never_read(place: int, value: int, shortened: bool) -> None:
    """A flipped bit anywhere, or the end missing."""
    content = bytearray(encode_png(image(3, 6, 6)))
    place %= len(content)
    if shortened:
        content = content[:place]
    else:
        content[place] ^= value
    assert read_plain_png(bytes(content), (3, 6, 6)) is None


def rebuilt(data: bytes, width: int = 4, height: int = 4, **header: int) -> bytes:
    """A file with right checksums around these data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    fields = {"depth": 8, "colour": 0, "compression": 0, "filter": 0, "interlace": 0, **header}
    start = chunk(b"IHDR", struct.pack(">II5B", width, height, *fields.values()))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_file_that_reports_otherwise_than_its_data_is_not_read() -> None:
    rows = b"\0abcd" * 4
    assert read_plain_png(rebuilt(zlib.compress(rows)), (1, 4, 4)) is not None
    odd = [rows[:-1], rows + b"x", b"\1abcd" + rows[5:], rows[:-5] + b"\4abcd", b""]
    files = [rebuilt(zlib.compress(data)) for data in odd]
    files += [rebuilt(zlib.compress(rows)[:-5]), rebuilt(b""), rebuilt(zlib.compress(rows) + b"x")]
    files += [rebuilt(zlib.compress(rows), **{field: 1}) for field in ("depth", "interlace", "filter", "compression")]
    files += [b"", rebuilt(zlib.compress(rows))[:40]]
    assert all(read_plain_png(file, (1, 4, 4)) is None for file in files[:7] + files[8:])


def test_a_bomb_is_not_unpacked() -> None:
    bomb = rebuilt(zlib.compress(b"\0" * 10**7))
    assert read_plain_png(bomb, (1, 4, 4)) is None
    with pytest.raises(UsageError):
        read_image(b"")
