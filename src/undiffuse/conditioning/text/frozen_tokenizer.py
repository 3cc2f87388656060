"""The tokenizer of a frozen text encoder, through ``transformers``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.errors import UsageError


class Words(NamedTuple):
    """Tokens of a text without special tokens: ids, and (start, end) of each in the characters of the text."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.ids)


class FrozenTokenizer:
    """Splits texts into tokens exactly as the tokenizer of the folder does.

    Args:
        folder: folder of the encoder.
    Attributes:
        prefix, suffix: ids of the special tokens around a text.
        padding: id of padding tokens.
        unknown: id of unknown words; None if there are none.
    Raises:
        UsageError: ``transformers`` is not installed, or the files of the tokenizer are damaged.
    """

    def __init__(self, folder: Path) -> None:
        with quiet_transformers() as transformers:
            try:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # of many kinds, some from Rust
                raise UsageError(f"the tokenizer in {folder} cannot be read ({_first_line(error)})") from None
        if not self._tokenizer.is_fast:
            raise UsageError(
                f"the tokenizer in {folder} has no tokenizer.json; save it by transformers' save_pretrained"
            )
        encoded = self._encode("a")
        special = encoded["special_tokens_mask"]
        before = special.index(0) if 0 in special else len(special)
        after = special[::-1].index(0) if 0 in special else 0
        ids = encoded["input_ids"]
        self.prefix, self.suffix = tuple(ids[:before]), tuple(ids[len(ids) - after :])
        self.padding = int(self._tokenizer.pad_token_id or 0)
        self.unknown: int | None = self._tokenizer.unk_token_id

    @property
    def num_special(self) -> int:
        """Number of special tokens around a text."""
        return len(self.prefix) + len(self.suffix)

    def split(self, text: str) -> Words:
        """All tokens of a text of any length."""
        encoded = self._encode(text)
        inner = slice(len(self.prefix), len(encoded["input_ids"]) - len(self.suffix))
        spans = [_without_spaces(text, *span) for span in encoded["offset_mapping"][inner]]
        return Words(tuple(encoded["input_ids"][inner]), tuple(spans))

    def _encode(self, text: str) -> Any:
        return self._tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)


def _without_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without spaces at its start, which some tokenizers make part of the next word."""
    while start < end and text[start].isspace():
        start += 1
    return start, end


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """The module ``transformers``, without its progress bars and warnings in the meantime.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "frozen text encoders need the package transformers; install undiffuse[text], or use system.text=learned"
        ) from None
    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
