"""The prompts of a request: classes and texts, each one for all samples or several used cyclically."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from undiffuse.conditioning.prompt import Prompt, no_text
from undiffuse.conditioning.prompt_syntax import parse_prompt
from undiffuse.conditioning.wildcards import escape, expand
from undiffuse.errors import UsageError

#: Requested texts: one for all samples, several used cyclically, None for no text.
TextRequest = str | Iterable[str] | None
#: Number of samples if none is given, except to repeat an image.
DEFAULT_NUM = 16
#: Largest number of captions that a model keeps as examples, the prompts of samples without one.
MOST_EXAMPLES = 64


def requested_texts(requested: TextRequest, what: str = "prompt") -> list[str]:
    """The requested texts in the order of sampling, with alternatives ``{a|b}`` expanded.

    Args:
        requested: one text, several, or None.
        what: name of the argument, for messages.
    Raises:
        UsageError: values that are not texts, or alternatives without an end.
    Example:
        >>> requested_texts("a {red|blue} circle")
        ['a red circle', 'a blue circle']
    """
    if requested is None:
        return []
    given = [requested] if isinstance(requested, str) else _listed(requested, what)
    return [text for template in given for text in expand(template)]


def _listed(requested: Iterable[str], what: str) -> list[str]:
    given = list(requested) if isinstance(requested, Iterable) else [requested]
    for text in given:
        if not isinstance(text, str):
            raise UsageError(f"{what} must be a text or several, got {text!r}")
    return given


def literal(texts: Sequence[str]) -> list[str]:
    """The request of which ``requested_texts`` returns these texts.

    Args:
        texts: texts without alternatives.
    """
    return [escape(text) for text in texts]


def check_prompts(texts: Sequence[str], has_text: bool, class_names: Sequence[str]) -> None:
    """Check the syntax of prompts, and that the model takes texts.

    Args:
        texts: prompts and negative prompts.
        has_text: whether the model is conditioned on texts.
        class_names: names of the model's classes.
    Raises:
        UsageError: unbalanced brackets, an empty term, or a model without text.
    """
    for text in texts:
        parse_prompt(text)
    if texts and not has_text:
        raise UsageError(no_text(texts[0], class_names))


def prompts_of(names: Sequence[str | None], texts: Sequence[str], negatives: Sequence[str], num: int) -> list[Prompt]:
    """The prompt of each of ``num`` samples; an empty list if nothing is given.

    Args:
        names: class names, used cyclically; empty for none.
        texts: prompts, used cyclically; empty for none.
        negatives: negative prompts, used cyclically; empty for none.
        num: number of samples.
    Example:
        >>> [prompt.text for prompt in prompts_of([], ["a", "b"], [], 3)]
        ['a', 'b', 'a']
    """
    if not names and not texts and not negatives:
        return []
    return [prompt_at(index, names, texts, negatives) for index in range(num)]


def prompt_at(
    index: int, names: Sequence[str | None], texts: Sequence[str] = (), negatives: Sequence[str] = ()
) -> Prompt:
    """The prompt of one sample.

    Args:
        index: of the sample.
        names, texts, negatives: see ``prompts_of``.
    """
    negative = _cyclic(negatives, index)
    return Prompt(_cyclic(names, index), _cyclic(texts, index), None if negative is None else Prompt(text=negative))


def _cyclic(values: Sequence[str | None], index: int) -> str | None:
    return values[index % len(values)] if values else None


def number_of_samples(num: int | None, texts: Sequence[str]) -> int:
    """Number of samples of a request: by default one for each of several prompts.

    Args:
        num: the requested number; None if there is none.
        texts: prompts.
    """
    if num is not None:
        return num
    return len(texts) if len(texts) > 1 else DEFAULT_NUM


def text_record(prompt: Prompt) -> dict[str, str]:
    """The entries of a record about the texts of a prompt; empty for a prompt without text."""
    texts = {"prompt": prompt.text, "negative": None if prompt.negative is None else prompt.negative.text}
    return {key: text for key, text in texts.items() if text is not None}
