"""Names of files as a person and every other program can read them. Imports neither torch nor numpy."""

from __future__ import annotations

import codecs
import unicodedata


def readable(name: str) -> str:
    """A name with the bytes that are no UTF-8 written as ``\\xe9``; all other names are as they are.

    Linux lets a file be called by any bytes; Python holds those that are no text as half characters, which neither a
    terminal nor JSON takes.
    """
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def composed(name: str) -> str:
    """A name in Unicode's form NFC, in which names that look the same are the same: macOS writes the accents apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def as_utf8(content: bytes) -> bytes:
    """A text with the mark of UTF-16, UTF-32 or UTF-8 at its beginning, as Windows' editors write them, in UTF-8
    without; any other is as it is.

    Raises:
        UnicodeDecodeError: the text is not what its mark says.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding).encode()
    return content


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
