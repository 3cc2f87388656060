"""Configurations of the text encoders. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from undiffuse.captions import alternatives_of
from undiffuse.conditioning.text.vocabulary import MOST_WORDS, Vocabulary, build_vocabulary, fit_vocabulary
from undiffuse.config import ComponentConfig
from undiffuse.core.condition_spec import TextSpec
from undiffuse.errors import UsageError

#: Lengths are multiples of this, and at most the second number unless one is given.
_LENGTH_STEP, _LONGEST = 8, 128
#: Captions that vocabulary and length are determined from, evenly spaced over the data.
_MOST_CAPTIONS = 100_000


class TextConfig(ComponentConfig):
    """Options of all text encoders.

    Args:
        length: tokens of every text, shorter ones being padded and longer ones cut. By default that of the longest
            training caption, rounded up to a multiple of 8, at most 128.
        width: features of a token.
        num_layers: trainable transformer layers.
        num_heads: attention heads; divides ``width``.
        use: what the image network receives: the token features for attention, the pooled vector, or both. A pooled
            vector alone cannot bind attributes to objects.
    """

    length: Annotated[int, Field(ge=2, le=1024)] | None = None
    width: Annotated[int, Field(ge=1)] = 128
    num_layers: Annotated[int, Field(ge=0)] = 2
    num_heads: Annotated[int, Field(ge=1)] = 4
    use: Literal["both", "tokens", "pooled"] = "both"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise UsageError(f"num_heads={self.num_heads} does not divide width={self.width}")
        return self

    @property
    def resolved(self) -> bool:
        """Whether all options are set that depend on the captions."""
        return self.length is not None

    def fitted(self, captions: Sequence[str]) -> Self:
        """This configuration with the options set that depend on the captions.

        Args:
            captions: training captions; a caption may have alternatives, one per line.
        """
        raise NotImplementedError

    def completed_from(self, resolved: Self) -> Self:
        """This configuration with the unset options taken from one that was fitted.

        Args:
            resolved: a fitted configuration of the same kind.
        """
        return self.model_copy(update={"length": self.length or resolved.length})

    @property
    def spec(self) -> TextSpec:
        """Form of the encoded text."""
        assert self.length is not None
        tokens, pooled = self.use != "pooled", self.use != "tokens"
        return TextSpec(tokens=self.length, width=self.width * tokens, pooled=self.width * pooled)


class LearnedTextConfig(TextConfig):
    """A transformer that is trained jointly with the image network (GLIDE).

    Args:
        vocabulary: ``words`` of the captions, lower case; ``bytes`` of UTF-8; or ``bpe``, pairs of bytes merged by
            frequency in the captions, which needs the extra ``text``.
        vocabulary_size: largest number of words or merges; the most frequent are used.
        entries: the words or merges, set from the training captions.
    """

    name: Literal["learned"] = "learned"
    vocabulary: Literal["words", "bytes", "bpe"] = "words"
    vocabulary_size: Annotated[int, Field(ge=1, le=MOST_WORDS)] = 8192
    entries: tuple[str, ...] = ()

    @property
    def resolved(self) -> bool:
        return self.length is not None and (bool(self.entries) or self.vocabulary == "bytes")

    def completed_from(self, resolved: Self) -> Self:
        entries = self.entries or resolved.entries
        return super().completed_from(resolved).model_copy(update={"entries": entries})

    def fitted(self, captions: Sequence[str]) -> Self:
        texts = list(_alternatives(captions))
        entries = self.entries or fit_vocabulary(self.vocabulary, texts, self.vocabulary_size)
        vocabulary = build_vocabulary(self.vocabulary, entries)
        return self.model_copy(
            update={"entries": tuple(entries), "length": self.length or _fitting_length(vocabulary, texts)}
        )


def _alternatives(captions: Sequence[str]) -> Iterable[str]:
    """Distinct captions of at most ``_MOST_CAPTIONS`` items, in order."""
    step = -(-len(captions) // _MOST_CAPTIONS)
    return dict.fromkeys(text for caption in captions[:: max(step, 1)] for text in alternatives_of(caption))


def _fitting_length(vocabulary: Vocabulary, texts: Iterable[str]) -> int:
    longest = 1 + max((len(vocabulary.encode(text).ids) for text in texts), default=0)  # with the start token
    return min(_LONGEST, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)
