"""Checks of captions: missing ones, equal ones, long ones, and words that occur once.

A caption with alternatives counts as several. Lengths and words are those of a text encoder with a vocabulary of words,
``system.text.name=learned``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from undiffuse.captions import alternatives_of
from undiffuse.conditioning.text.config import LearnedTextConfig
from undiffuse.conditioning.text.vocabulary import words_of
from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.wording import count_noun, format_names

#: Share of the images without a caption, or with one and the same, above which a finding is a warning.
_MANY = 0.1
#: Images that share a caption before it is worth a line.
_FEW_EQUAL = 3
#: Share of the words that occur once above which a finding is a warning.
_MOSTLY_RARE = 0.5
#: Largest text length of a model.
_MOST_TOKENS = 1024
_LISTED = 1000
_SHOWN = 60  # characters of a caption in a line


def captions(context: DataContext) -> Iterable[Finding]:
    """Captions of at most ``MOST`` items; nothing for a set without captions."""
    texts = context.dataset.captions
    if texts is None:
        return
    rows = context.rows.tolist()
    found = dict(zip(rows, map(alternatives_of, (texts[row] for row in rows)), strict=True))
    findings = [*_empty(context, found), *_equal(_own(context, found)), *_long(context, found), *_rare(context, found)]
    if not findings:
        count = sum(map(len, found.values()))
        findings = [Finding("ok", "captions", f"{count_noun(count, 'caption')} of {count_noun(len(found))}")]
    yield from findings


Captions = dict[int, list[str]]


def _empty(context: DataContext, found: Captions) -> Iterator[Finding]:
    lacking = [row for row, texts in found.items() if not any(texts)]
    if not lacking:
        return
    names = context.names(lacking)
    instead = ", or name their classes: data.class_captions='a photo of {}'" if context.dataset.class_names else ""
    yield Finding(
        "warning" if len(lacking) > _MANY * len(found) else "note",
        "images without a caption",
        f"{len(lacking):,} of {count_noun(len(found))}: {format_names(names)}; a model is trained on them without one",
        f"add captions{instead}; data.captions=none trains without any",
        {"count": len(lacking), "of": len(found), "items": names[:_LISTED]},
    )


def _own(context: DataContext, found: Captions) -> Captions:
    """The captions without those made from the names of classes, which are the last ones."""
    has_class_captions = getattr(context.config, "class_captions", None) is not None
    return {row: texts[:-1] for row, texts in found.items()} if has_class_captions else found


def _equal(found: Captions) -> Iterator[Finding]:
    counts = Counter(text for texts in found.values() for text in dict.fromkeys(texts) if text)
    repeated = [(text, count) for text, count in counts.most_common(_LISTED) if count >= _FEW_EQUAL]
    if not repeated:
        return
    text, most = repeated[0]
    yield Finding(
        "warning" if most > _MANY * len(found) else "note",
        "images with the same caption",
        f"{count_noun(len(counts), 'caption')} of {count_noun(len(found))} differ; {most:,} have {_quoted(text)}",
        "if they show different things, say so in their captions; a model cannot tell them apart otherwise",
        {"distinct": len(counts), "of": len(found), "repeated": dict(repeated)},
    )


def _long(context: DataContext, found: Captions) -> Iterator[Finding]:
    lengths = {row: max(1 + len(words_of(text)) for text in texts) for row, texts in found.items()}
    texts = [text for alternatives in found.values() for text in alternatives]
    fitted = LearnedTextConfig(entries=("a",)).fitted(texts).length
    assert fitted is not None
    longer = sorted((row for row, length in lengths.items() if length > fitted), key=lambda row: -lengths[row])
    if not longer:
        return
    first = longer[0]
    yield Finding(
        "warning",
        "captions that are too long",
        f"{len(longer):,} of {count_noun(len(found))} have more than the {fitted} tokens of a model's texts; the "
        f"longest has {lengths[first]:,}: {context.names([first])[0]}",
        f"the rest of them is cut: shorten them, or set system.text.length={min(lengths[first], _MOST_TOKENS)}",
        {
            "count": len(longer),
            "of": len(found),
            "length": fitted,
            "longest": lengths[first],
            "items": context.names(longer[:_LISTED]),
        },
    )


def _rare(context: DataContext, found: Captions) -> Iterator[Finding]:
    words = {row: [words_of(text) for text in texts] for row, texts in found.items()}
    # words of the captions of one image count once: its alternatives repeat them
    counts = Counter(word for texts in words.values() for word in {word for text in texts for word in text})
    rare = {word for word, count in counts.items() if count == 1}
    only = [row for row, texts in words.items() if _all_rare(texts, rare)]
    if len(rare) <= _MOSTLY_RARE * len(counts) and len(only) <= _MANY * len(found):
        return
    yield Finding(
        "warning",
        "words that occur once",
        f"{len(rare):,} of {count_noun(len(counts), 'word')} ({percent(len(rare) / max(1, len(counts)))}) belong to "
        f"one image only, such as {format_names(sorted(rare))}; {count_noun(len(only))} have no other words",
        "a model cannot learn their meaning: add captions in common words, or use system.text.vocabulary=bpe",
        {"rare": len(rare), "words": len(counts), "only_rare": len(only), "items": context.names(only[:_LISTED])},
    )


def _all_rare(texts: Sequence[Sequence[str]], rare: set[str]) -> bool:
    """Whether there are words and all of them are rare."""
    words = [word for text in texts for word in text]
    return bool(words) and rare.issuperset(words)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
