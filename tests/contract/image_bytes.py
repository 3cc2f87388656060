"""Image files and colour profiles written byte by byte, so that tests know what is in them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(
    levels: np.ndarray, depth: int, colour_type: int, before: bytes = b"", after: bytes = b"", filtered: int = 0
) -> bytes:
    """A PNG file.

    Args:
        levels: (H, W) or (H, W, C) whole numbers of ``depth`` bits.
        before, after: chunks on either side of the pixels.
        filtered: 0 for rows as they are, 1 for differences to the pixel on the left.
    """
    height, width = levels.shape[:2]
    packed = levels.reshape(height, -1)
    if depth == 16:
        rows = packed.astype(">u2").view(np.uint8)
    elif depth == 8:
        rows = packed.astype(np.uint8)
    else:
        bits = (packed[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    if filtered:
        step = max(1, depth * (levels.shape[2] if levels.ndim == 3 else 1) // 8)
        rows = np.concatenate([rows[:, :step], rows[:, step:] - rows[:, :-step]], axis=1)
    content = b"".join(bytes([filtered]) + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before,
            png_chunk(b"IDAT", zlib.compress(content)) + after + png_chunk(b"IEND", b""),
        ]
    )


def write_tiff(
    planes: Sequence[bytes],
    size: tuple[int, int],
    bits: Sequence[int],
    photometric: int,
    order: str = "<",
    palette: Sequence[int] = (),
    **tags: int,
) -> bytes:
    """A TIFF file of one directory.

    Args:
        planes: the pixels of each strip, one strip for all rows, or one a channel with ``planar=2``.
        size: (height, width).
        bits: of each channel.
        photometric: 0 where white is 0, 1 grey, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr, 8 LAB.
        order: ``<`` little-endian, ``>`` big-endian.
        palette: all reds, all greens, all blues.
        tags: ``compression`` (8 deflates the strips), ``planar``, ``extra``, ``format`` (1 unsigned, 2 signed, 3
            floating-point), ``orientation``, ``big`` (1 for a BigTIFF).
    """
    if tags.get("compression") == 8:
        planes = [zlib.compress(plane) for plane in planes]
    entries: list[tuple[int, int, Sequence[int]]] = [
        (256, 4, [size[1]]),
        (257, 4, [size[0]]),
        (258, 3, bits),
        (259, 3, [tags.get("compression", 1)]),
        (262, 3, [photometric]),
        (277, 3, [len(bits)]),
        (278, 4, [size[0]]),
        (279, 4, list(map(len, planes))),
        (284, 3, [tags.get("planar", 1)]),
    ]
    entries += [(320, 3, palette)] if palette else []
    known = {"orientation": 274, "extra": 338, "format": 339}
    entries += [
        (known[name], 3, [value] * (len(bits) if name == "format" else 1))
        for name, value in tags.items()
        if name in known
    ]
    big = tags.get("big", 0)
    head, place = (order + "HHHHQ", 16) if big else (order + "HHI", 8)
    magic = struct.unpack(order + "H", b"II" if order == "<" else b"MM")[0]
    offsets = [place + sum(map(len, planes[:number])) for number in range(len(planes))]
    entries = sorted([*entries, (273, 4, offsets)])
    body = b"".join(planes)
    directory_at = place + len(body)
    inline, item = (8, order + "HHQ") if big else (4, order + "HHI")
    more_at = directory_at + (8 if big else 2) + len(entries) * (20 if big else 12) + inline
    directory, more = struct.pack(order + ("Q" if big else "H"), len(entries)), b""
    for tag, kind, values in entries:
        content = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(content) > inline:
            content, more = struct.pack(order + ("Q" if big else "I"), more_at + len(more)), more + content
        directory += struct.pack(item, tag, kind, len(values)) + content.ljust(inline, b"\0")
    start = struct.pack(head, magic, *((43, 8, 0, directory_at) if big else (42, directory_at)))
    return start + body + directory + bytes(inline) + more


def write_profile(
    gamma: float | Sequence[float], primaries: Sequence[tuple[float, float]] = (), name: str = "", white: float = 1.0
) -> bytes:
    """An ICC profile, version 2.4, of a monitor: grey without primaries, else RGB with white at D65.

    Args:
        gamma: exponent, or the values of a curve from 0 to 1.
        primaries: (x, y) of red, green and blue.
        white: what the largest levels stand for; 1 in a sound profile.
    """
    d50 = np.array([0.9642, 1.0, 0.8249])
    if isinstance(gamma, float):
        curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    else:
        points = np.rint(np.asarray(gamma) * 65535).astype(">u2")
        curve = b"curv" + bytes(4) + struct.pack(">I", len(points)) + points.tobytes() + bytes(len(points) % 2 * 2)
    text = name.encode("ascii") + b"\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": desc, b"wtpt": _xyz(d50)}
    if primaries:
        tags |= {
            kind + b"XYZ": _xyz(column)
            for kind, column in zip((b"r", b"g", b"b"), (to_d50(primaries) * white).T, strict=True)
        }
        tags |= {kind + b"TRC": curve for kind in (b"r", b"g", b"b")}
    else:
        tags[b"kTRC"] = curve
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        table += tag + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    space = b"RGB " if primaries else b"GRAY"
    header = struct.pack(">I4xI", size, 0x02400000) + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    return header + _xyz(d50)[8:] + bytes(48) + struct.pack(">I", len(tags)) + table + body


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + np.rint(values * 65536).astype(">i4").tobytes()


def to_d50(primaries: Sequence[tuple[float, float]]) -> np.ndarray:
    """(3, 3) colours of the primaries as columns, adapted from D65 to D50 as Bradford does."""

    def xyz(xy: tuple[float, float]) -> np.ndarray:
        return np.array([xy[0] / xy[1], 1.0, (1 - xy[0] - xy[1]) / xy[1]])

    columns = np.stack([xyz(xy) for xy in primaries], axis=1)
    columns = columns * np.linalg.solve(columns, xyz(D65))
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = (cones @ [0.9642, 1.0, 0.8249]) / (cones @ xyz(D65))
    return np.linalg.inv(cones) @ np.diag(scale) @ cones @ columns


def srgb_curve(num: int = 1024) -> np.ndarray:
    """The linear light of ``num`` evenly spaced levels in sRGB (IEC 61966-2-1)."""
    v = np.linspace(0, 1, num)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def write_ink_profile(name: str) -> bytes:
    """An ICC profile of four inks by a table: cyan, magenta or yellow alone give L* = 50 without colour, black 0."""
    ramp = bytes(range(256))
    table = b""
    for cyan, magenta, yellow, black in np.ndindex(2, 2, 2, 2):
        lightness = 0 if black else 255 - 127 * min(cyan + magenta + yellow, 2)
        table += bytes([max(lightness, 0), 128, 128])
    head = struct.pack(">4s4x4B9i", b"mft1", 4, 3, 2, 0, 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = head + 4 * ramp + table + 3 * ramp
    text = name.encode("ascii") + b"\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": desc, b"wtpt": _xyz(np.array([0.9642, 1.0, 0.8249])), b"A2B0": lut, b"A2B1": lut}
    place, entries, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        entries += tag + struct.pack(">II", place + len(body), len(content))
        body += content
    start = struct.pack(">I4xI", place + len(body), 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    return start + _xyz(np.array([0.9642, 1.0, 0.8249]))[8:] + bytes(48) + struct.pack(">I", len(tags)) + entries + body
