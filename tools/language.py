"""Looks for words that no paper uses, in identifiers, messages, comments and pages: the field has words of its own.

    python tools/language.py                    # the findings, by file and line; 1 if there are any
    python tools/language.py src/undiffuse/core # of one folder or file
    python tools/language.py --count            # how many in each folder

``IDENTIFIERS`` are names that the code may not define or use, ``WORDS`` those that identifiers may not be made of,
``PHRASES`` what prose may not say; each with what to say instead. What is data (keys in files, names of random streams,
old names that are still read) is not renamed: such a line ends in ``# data`` or is listed in ``KEPT``. A string of one
word is a key, and no prose.
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

#: whole identifiers → the field's name
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
#: words that no identifier may hold: ``load_pictures`` has "pictures"
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
#: what prose may not say → what it may
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
#: file (or folder) → identifiers and phrases that stay there, for they are data or another field's terms
KEPT: dict[str, frozenset[str]] = {
    "src/undiffuse/compute": frozenset({"machine"}),  # platform.machine of the standard library
    "src/undiffuse/data": frozenset({"shards"}),  # of a data set, as WebDataset and Hugging Face write them
    "tests/": frozenset({"choice"}),  # random.choice, and a variable's name
    "tools/": frozenset({"choice"}),
    "benchmarks/": frozenset({"machine"}),  # platform.machine
    "benchmarks/busy": frozenset({"beside"}),  # records keep the command that made them
}
#: what is looked at: code, and pages that say how things are (a log and decisions say how they were)
FOLDERS = ("src", "tests", "tools", "benchmarks", "examples", "docs", "README.md", "CONTRIBUTING.md")
SKIPPED = ("docs/LOG.md", "docs/adr", "docs/results", "tests/golden", "CHANGELOG.md")
#: the words themselves, and tests of them
_TABLES = ("tools/language.py", "tests/docs/test_language.py")
_ANY = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)
_PROSE = [(re.compile(rf"\b{phrase}\b", re.IGNORECASE), phrase, better) for phrase, better in PHRASES.items()]
_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_DATA = "# data"
_KEY = re.compile(r"""[rbf]?["'][\w./-]+["']""")


class Finding(NamedTuple):
    """One word that is not the field's."""

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
            if path.suffix in (".py", ".md") and not relative.startswith(SKIPPED):
                yield path


def findings(path: Path) -> Iterator[Finding]:
    """All findings in one file."""
    text = path.read_text(encoding="utf-8")
    relative = path.relative_to(ROOT).as_posix()
    if relative in _TABLES:
        return
    kept = frozenset[str]().union(*(words for name, words in KEPT.items() if relative.startswith(name)))
    found = _in_python(path, text) if path.suffix == ".py" else _in_prose(path, text, 1)
    lines = text.splitlines()
    for finding in (*_in_name(path), *found):
        data = finding.line and lines[finding.line - 1].rstrip().endswith(_DATA)
        if not data and finding.word.lower() not in kept and finding.word not in kept:
            yield finding


def _in_name(path: Path) -> Iterator[Finding]:
    yield from _in_identifier(path, 0, path.stem)


def _in_python(path: Path, text: str) -> Iterator[Finding]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield from _in_identifier(path, token.start[0], token.string)
        elif token.type == tokenize.STRING and _KEY.fullmatch(token.string):
            continue  # a key or a name in a file
        elif token.type in (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield from _in_prose(path, token.string, token.start[0])


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
        for pattern, _, better in _PROSE if _ANY.search(line) else ():
            for match in pattern.finditer(line):
                yield Finding(path, first + number, match[0], better)


def main() -> int:
    """Prints the findings; 1 if there are any."""
    parser = argparse.ArgumentParser(description="looks for words that are not the field's")
    parser.add_argument("paths", nargs="*", default=FOLDERS, help="files and folders, from the root of the repository")
    parser.add_argument("--count", action="store_true", help="how many in each folder, and of which words")
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
