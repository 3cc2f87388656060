"""Find words that papers do not use, in identifiers, messages, comments and pages, and suggest the standard term.

    python tools/language.py                    # the findings, by file and line; 1 if there are any
    python tools/language.py src/undiffuse/core # in one folder or file
    python tools/language.py --count            # number of findings per folder

``IDENTIFIERS`` are names that the code may not define or use, ``WORDS`` are disallowed parts of identifiers,
``PHRASES`` are disallowed in prose; each with its replacement. Data (keys in files, names of random streams, old names
that are still read) is not renamed: such a line ends in ``# data``, or the key is one of ``KEYS``. Methods of other
libraries are listed in ``METHODS``, exceptions of a folder in ``KEPT``.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: complete identifiers → the standard name
IDENTIFIERS = {
    "LatentSystem": "OneStepGenerator",
    "verdict": "discriminator_logits, or result",
    "verdicts": "discriminator_logits, or results",
    "game": "gan_dynamics",
    "judge": "feature discriminator",
    "shards": "threaded batch",
    "Taught": "LazyTeacher",
    "OutOfSight": "DetachedModule",
    "begin_from": "init_from",
    "fits": "check_compatible",
    "turns": "phases_due",
    "compared": "metrics",
    "facts": "metrics, or record",
    "until": "target_time",
    "deep": "cached_features",
    "says_variance": "predicts_variance",
    "reuse": "cache_interval, feature caching",
    "Watch": "CountingDenoiser",
    "Blocked": "FixedBatchDenoiser",
    "Window": "MetricAccumulator",
    "crew": "worker pool",
    "Texts": "StringArray",
    "RowBank": "ReservoirSample",
    "Plate": "Figure",
    "Subject": "a context",
    "canvas": "plot style",
    "sheet": "image grid",
    "guard": "nonfinite",
    "journal": "metrics log",
    "choice": "backend",
    "machine": "hardware",
    "settle": "finalize",
    "cut": "clip",
    "phase_rates": "phase_learning_rates",
}
#: words that identifiers may not contain: ``load_pictures`` has "pictures"
WORDS = {
    "picture": "image",
    "pictures": "images",
    "told": "given, conditioned",
    "beside": "with, next_to",
    "verdict": "logits, result",
    "verdicts": "logits, results",
    "journal": "metrics_log",
    "judge": "discriminator",
    "game": "gan",
    "crew": "pool",
    "canvas": "style",
}
#: disallowed phrases in prose → replacement
PHRASES = {
    r"pictures?": "image",
    r"told": "conditioned on, given",
    r"beside": "with, next to",
    r"passed over": "skipped",
    r"by heart": "memorised",
    r"for want of": "lacking",
    r"verdicts?": "discriminator logits, result",
    r"judges?": "discriminator",
    r"games?": "GAN dynamics",
    r"crews?": "worker pool",
    r"journals?": "metrics log",
    r"(?:steps?|times?|noises?|seeds?|one|numbers?|values?|evaluations?|size|weights?) a row": "per sample",
    r"(?:network |function )?evaluations a (?:step|sample|row)": "NFE",
    r"network evaluations": "NFE",
}
#: file (or folder) → identifiers and phrases that stay there, since they are data or terms of another field
KEPT: dict[str, frozenset[str]] = {
    "src/undiffuse/data": frozenset({"shards"}),  # of a data set, as in WebDataset and Hugging Face
}
#: keys in files, as whole string literals: names that are data
KEYS = {
    "pictures": "the compared images, in the record of a comparison; the number of images of a figure",
    "verdict": "of the metric modes, in the record of an evaluation",
    "journal": "the rows of metrics.jsonl, in the golden list of names",
    ".partial.journal": "suffix of the progress file of a prepared data set",
}
#: methods and functions of other libraries that are called as attributes → the object
METHODS = {"choice": r"\w+", "machine": "platform"}  # of random and NumPy generators, platform.machine()
#: searched files: code, and pages on the current state (not the log and past decisions)
FOLDERS = ("src", "tests", "tools", "benchmarks", "examples", "docs", "README.md", "CONTRIBUTING.md")
SKIPPED = ("docs/LOG.md", "docs/adr", "docs/results", "tests/golden", "CHANGELOG.md", "tools/language.py")
#: dated pages of measurements, with the command at that time
_RECORD = re.compile(r"benchmarks/.*_\d{4}-\d\d-\d\d\.md")
_PROSE = [(re.compile(rf"\b{phrase}\b", re.IGNORECASE), phrase, better) for phrase, better in PHRASES.items()]
_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_DATA = "# data"
_TEXT_TOKENS = (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1))
#: the longest literal part of each phrase, for a fast search
_LITERALS = [
    max(re.findall(r"[a-z ]+", re.sub(r"\(.*?\)|[a-z]\?", "|", phrase)), key=len).strip() for phrase in PHRASES
]
#: approximate patterns of string literals and comments, and of identifiers outside of them
_TEXTS = re.compile(r'"""(?s:.*?)"""|"(?:\\.|[^"\\\n])*"|#.*')
_NAMES = re.compile(rf"\b_*(?:{'|'.join(IDENTIFIERS)})_*\b")


class Finding(NamedTuple):
    """One word that is not a standard term."""

    path: Path
    line: int
    word: str
    better: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.word!r}; say {self.better}"


def files(paths: Iterable[str]) -> Iterator[Path]:
    """Python files and pages below these paths."""
    for name in paths:
        top = ROOT / name
        found = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in found:
            relative = path.relative_to(ROOT).as_posix()
            skipped = relative.startswith(SKIPPED) or _RECORD.fullmatch(relative)
            if path.suffix in (".py", ".md") and not skipped:
                yield path


def findings(path: Path, text: str | None = None) -> Iterator[Finding]:
    """All findings in one file, or in ``text`` as its content."""
    text = path.read_text(encoding="utf-8") if text is None else text
    if not _may_hold_any(path.stem) and not _may_hold_any(text):
        return
    relative = path.relative_to(ROOT).as_posix()
    kept = frozenset[str]().union(*(words for name, words in KEPT.items() if relative.startswith(name)))
    found = _in_python(path, text) if path.suffix == ".py" else _in_prose(path, text, 1)
    lines = text.splitlines()
    for finding in (*_in_name(path), *found):
        data = finding.line and lines[finding.line - 1].rstrip().endswith(_DATA)
        if not data and finding.word.lower() not in kept and finding.word not in kept:
            yield finding


def _may_hold_any(text: str) -> bool:
    """A fast check; false for most texts, which need no parsing."""
    lowered = text.lower()
    if any(word in lowered for word in (*WORDS, *_LITERALS)):
        return True
    return _NAMES.search(_TEXTS.sub("", text)) is not None


def _in_name(path: Path) -> Iterator[Finding]:
    yield from _in_identifier(path, 0, path.stem)


def _in_python(path: Path, text: str) -> Iterator[Finding]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            if token.string in METHODS and _is_method(token):
                continue
            yield from _in_identifier(path, token.start[0], token.string)
        elif token.type in _TEXT_TOKENS and token.string[1:-1] not in KEYS:
            yield from _in_prose(path, token.string, token.start[0])


def _is_method(token: tokenize.TokenInfo) -> bool:
    """Whether it is called on the object given in ``METHODS``."""
    before, after = token.line[: token.start[1]], token.line[token.end[1] :]
    return after.startswith("(") and re.search(rf"\b{METHODS[token.string]}\.$", before) is not None


def _in_identifier(path: Path, line: int, name: str) -> Iterator[Finding]:
    bare = name.strip("_")
    if bare in IDENTIFIERS:
        yield Finding(path, line, bare, IDENTIFIERS[bare])
        return
    for word in _SPLIT.findall(name):
        if word.lower() in WORDS:
            yield Finding(path, line, word, WORDS[word.lower()])


def _in_prose(path: Path, text: str, first: int) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines()):
        for pattern, _, better in _PROSE:
            for match in pattern.finditer(line):
                yield Finding(path, first + number, match[0], better)


def main() -> int:
    """Print the findings; return 1 if there are any."""
    parser = argparse.ArgumentParser(description="find words that are not standard terms")
    parser.add_argument("paths", nargs="*", default=FOLDERS, help="files and folders, from the root of the repository")
    parser.add_argument("--count", action="store_true", help="number of findings per folder and per word")
    options = parser.parse_args()
    found = [finding for path in files(options.paths) for finding in findings(path)]
    if options.count:
        by_folder = Counter(finding.path.parent.relative_to(ROOT).as_posix() for finding in found)
        by_word = Counter(finding.word.lower() for finding in found)
        print(*(f"{number:>6} {name}" for name, number in by_folder.most_common()), sep="\n")
        print(*(f"{number:>6} {name!r}" for name, number in by_word.most_common()), sep="\n")
    else:
        print(*found, sep="\n")
    print(f"{len(found)} words are not the field's" if found else "all words are the field's")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
