"""Portable, readable forms of file names and text files. Imports neither torch nor numpy."""

from __future__ import annotations

import codecs
import unicodedata


def readable(name: str) -> str:
    """A name with the bytes that are not UTF-8 written as ``\\xe9``; valid names are unchanged.

    On Linux a file name may be any bytes; Python represents invalid ones as surrogates, which neither terminals nor
    JSON accept.
    """
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def composed(name: str) -> str:
    """A name in Unicode normal form NFC, so that names that look the same are equal: macOS decomposes accents."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def as_utf8(content: bytes) -> bytes:
    """Convert a text with a byte order mark (UTF-8, UTF-16, UTF-32), as written by Windows editors, to plain UTF-8.

    A text without a byte order mark is returned unchanged.

    Raises:
        UnicodeDecodeError: the text does not match its byte order mark.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding).encode()
    return content


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of it
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
