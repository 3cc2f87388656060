"""Vocabularies of learned text encoders: words, bytes, or byte pairs. Does not import torch.

Ids 0 to 2 are padding, the start token and the unknown word.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from undiffuse.errors import UsageError

PADDING, START, UNKNOWN = 0, 1, 2
#: Number of reserved ids.
NUM_RESERVED = 3
#: Largest vocabulary.
MOST_WORDS = 200_000

_WORD = re.compile(r"\w+|[^\w\s]")


class Encoded(NamedTuple):
    """Token ids of a text, and the (start, end) of each token in its characters."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class Vocabulary(ABC):
    """Maps texts to token ids.

    Attributes:
        size: number of ids, including the reserved ones.
    """

    size: int

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """The tokens of a text, without start token and padding."""

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary."""
        return [text[slice(*span)] for id, span in zip(*self.encode(text), strict=True) if id == UNKNOWN]


class WordVocabulary(Vocabulary):
    """Words and punctuation marks, in lower case.

    Args:
        words: the known words.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._ids = {word: number for number, word in enumerate(words, start=NUM_RESERVED)}
        self.size = NUM_RESERVED + len(words)

    def encode(self, text: str) -> Encoded:
        found = list(_WORD.finditer(text))
        ids = tuple(self._ids.get(normalized(match.group()), UNKNOWN) for match in found)
        return Encoded(ids, tuple(match.span() for match in found))


class ByteVocabulary(Vocabulary):
    """The bytes of a text in UTF-8."""

    size = NUM_RESERVED + 256

    def encode(self, text: str) -> Encoded:
        encoded = [(byte, index) for index, letter in enumerate(text) for byte in letter.encode()]
        return Encoded(
            tuple(NUM_RESERVED + byte for byte, _ in encoded), tuple((index, index + 1) for _, index in encoded)
        )


class BytePairVocabulary(Vocabulary):
    """Merged pairs of bytes.

    Args:
        merges: pairs of tokens separated by a space, in the order of their application.
    Source: Sennrich et al. 2016, arXiv:1508.07909; over bytes, Radford et al. 2019.
    """

    def __init__(self, merges: Sequence[str]) -> None:
        tokenizers = _tokenizers()
        pairs = [_pair_of(merge) for merge in merges]
        letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        known = dict.fromkeys([*letters, *("".join(pair) for pair in pairs)])
        ids = {token: number for number, token in enumerate(known)}
        self._tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=pairs))
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.size = NUM_RESERVED + len(ids)

    def encode(self, text: str) -> Encoded:
        encoding = self._tokenizer.encode(text)
        return Encoded(tuple(NUM_RESERVED + id for id in encoding.ids), tuple(encoding.offsets))


def normalized(word: str) -> str:
    """A word in lower case with composed accents."""
    return unicodedata.normalize("NFC", word.lower())


def words_of(text: str) -> list[str]:
    """The words and punctuation marks of a text, normalized."""
    return [normalized(word) for word in _WORD.findall(text)]


def build_vocabulary(kind: str, entries: Sequence[str]) -> Vocabulary:
    """The vocabulary of a kind with its words or merges.

    Args:
        kind: ``words``, ``bytes`` or ``bpe``.
        entries: see ``fit_vocabulary``.
    """
    if kind == "bytes":
        return ByteVocabulary()
    return WordVocabulary(entries) if kind == "words" else BytePairVocabulary(entries)


def fit_vocabulary(kind: str, texts: Iterable[str], size: int) -> tuple[str, ...]:
    """Words in order of decreasing frequency, or merges of byte pairs in order of application.

    Args:
        kind: ``words``, ``bytes`` or ``bpe``.
        texts: the training captions.
        size: largest number of entries.
    Raises:
        UsageError: the captions have no words, or the package ``tokenizers`` is missing.
    """
    if kind == "bytes":
        return ()
    entries = _frequent_words(texts, size) if kind == "words" else _byte_pairs(texts, size)
    if not entries:
        raise UsageError("the captions have no words to build a vocabulary from; use data with captions")
    return entries


def _frequent_words(texts: Iterable[str], size: int) -> tuple[str, ...]:
    counts = Counter(word for text in texts for word in words_of(text))
    return tuple(word for word, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:size])


def _byte_pairs(texts: Iterable[str], size: int) -> tuple[str, ...]:
    import json

    tokenizers = _tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(alphabet) + size, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)


def _pair_of(merge: str) -> tuple[str, str]:
    first, _, second = merge.partition(" ")
    if not first or not second or " " in second:
        raise UsageError(f"a byte-pair merge must be two tokens separated by a space, got {merge!r}")
    return first, second


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UsageError(
            "vocabulary 'bpe' needs the package tokenizers; install undiffuse[text], or use "
            "system.text.vocabulary=words or bytes"
        ) from None
    return tokenizers
