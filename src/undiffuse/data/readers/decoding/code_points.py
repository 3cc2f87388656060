"""ICC profiles for colour spaces given by code points: sRGB, Display P3 and BT.2020.

Source: ITU-T H.273 (code points); PNG specification (third edition), 11.3.2.6 (cICP); ICC.1:2022 (the profile).
"""

from __future__ import annotations

import functools
import struct

import numpy as np
import numpy.typing as npt

_D50, _D65 = (0.9642, 1.0, 0.8249), (0.3127, 0.3290)
#: (x, y) of red, green and blue by the code of the primaries; the white point of all is D65.
_PRIMARIES = {
    1: ("sRGB", ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))),
    9: ("BT.2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))),
    12: ("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))),
}
#: By the code of the transfer function: a suffix for the profile's name, and the ICC parametric curve.
_CURVES = {
    4: (" with gamma 2.2", (2.2,)),
    8: (" in linear light", (1.0,)),
    13: ("", (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),
}
_PLAIN = ((1, 2), (1, 2, 6, 13, 14, 15))  # sRGB, unspecified, and television standards, all treated as sRGB
NOT_READ = "with colours of a space that is not read, such as one of high dynamic range, left as stored"
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Floats = npt.NDArray[np.float64]


def colours_of(primaries: int, transfer: int) -> tuple[bytes, str]:
    """The profile for these code points (empty for sRGB) and a note for the user (empty if there is none).

    High dynamic range is not supported, because the meaning of its levels depends on the screen.
    """
    if primaries in _PLAIN[0] and transfer in _PLAIN[1]:
        return b"", ""
    if primaries not in _PRIMARIES or transfer not in _CURVES:
        return b"", NOT_READ
    return _profile(primaries, transfer), ""


@functools.cache
def _profile(primaries: int, transfer: int) -> bytes:
    (name, icc_profile), (suffix, curve) = _PRIMARIES[primaries], _CURVES[transfer]
    para = b"para" + bytes(4) + struct.pack(">HH", 3 if len(curve) > 1 else 0, 0) + _fixed(*curve)
    text = (name + suffix).encode("utf-16-be")
    tags = {
        b"desc": b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text,
        b"wtpt": b"XYZ " + bytes(4) + _fixed(*_D50),
        **{kind + b"TRC": para for kind in (b"r", b"g", b"b")},
    }
    for kind, column in zip((b"r", b"g", b"b"), _columns_at_d50(icc_profile).T.tolist(), strict=True):
        tags[kind + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*column)
    return _packed(tags)


def _packed(tags: dict[bytes, bytes]) -> bytes:
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    start = struct.pack(">I4xI4s4s4s12x4s28x", offset + len(body), 0x04400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return start + _fixed(*_D50) + bytes(48) + struct.pack(">I", len(tags)) + table + body


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _columns_at_d50(primaries: tuple[tuple[float, float], ...]) -> Floats:
    """(3, 3): XYZ of the primaries as columns, adapted from D65 to D50 by the Bradford transform."""
    columns = np.stack([_xyz(*xy) for xy in primaries], axis=1)
    columns = columns * np.linalg.solve(columns, _xyz(*_D65))
    scale = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ _xyz(*_D65))
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD @ columns)


def _xyz(x: float, y: float) -> Floats:
    return np.array([x / y, 1.0, (1 - x - y) / y])
