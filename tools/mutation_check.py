"""Check that the tests detect wrong formulas: break one at a time in a copy of the package and run its test.

    python tools/mutation_check.py                  all mutations of tests/mutations
    python tools/mutation_check.py samplers         the mutations of a package
    python tools/mutation_check.py "c_t not"        the mutations whose name contains this
    python tools/mutation_check.py --check          only check that the patterns still match (a second)

Each package has a table ``tests/mutations/PACKAGE.toml``. A row names a file below ``src/undiffuse``, a function in it,
a pattern that occurs once in that function, its replacement and the test that must fail. The function is found by name,
the pattern independently of white space, so moved and wrapped lines do not matter.

    killed    the test failed
    SURVIVED  the test passed: it does not check the formula
    stale     file, function, pattern or test no longer exists: the row must be fixed or removed, which is not an error
    skipped   the test cannot run on this machine
    UNSOUND   the test fails without the mutation too

This checkout is not changed. Exit code 1 if a row survives or is unsound, 2 if no row has the name, 0 otherwise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from definitions import places

ROOT = Path(__file__).resolve().parents[1]
#: Imported once in a fork server, since importing takes longer than most tests.
PRELOADED = ["pytest", "hypothesis", "torch", "scipy.stats"]
#: Time limit of a test, since a mutation may cause an infinite loop.
SECONDS = 600
BAD = ("SURVIVED", "UNSOUND")


class Row(NamedTuple):
    """One mutation. ``tests``: the test that must fail, or files in which some test must fail."""

    room: str
    name: str
    file: str
    function: str
    pattern: str
    replacement: str
    tests: tuple[str, ...]


class StaleError(LookupError):
    """The row refers to something that no longer exists."""


class Outcome(NamedTuple):
    """Names of the failed, passed and skipped tests."""

    failed: list[str]
    passed: list[str]
    skipped: list[str]


def read_rows(folder: Path) -> list[Row]:
    """The rows of all tables, package by package."""
    return [
        row_of(table.stem, fields)
        for table in sorted(folder.glob("*.toml"))
        for fields in tomllib.loads(table.read_text(encoding="utf-8"))["mutation"]
    ]


def row_of(room: str, fields: dict[str, Any]) -> Row:
    """A row of a table; ``test`` is a single test, ``tests`` are several."""
    rest = dict(fields)
    tests = tuple(rest.pop("tests")) if "tests" in rest else (rest.pop("test"),)
    return Row(room, **rest, tests=tests)


def broken(row: Row, package: Path) -> str:
    """The file's text with the mutation applied.

    Raises:
        StaleError: if it cannot be applied.
    """
    path = package / row.file
    if not path.is_file():
        raise StaleError(f"no file {row.file}")
    text = path.read_text(encoding="utf-8")
    spans = places(text, path.suffix, row.function)
    if not spans:
        raise StaleError(f"no {row.function} in {row.file}")
    signs = as_expression(row.pattern)
    found = [match for span in spans for match in signs.finditer(text, span.start, span.stop)]
    if len(found) != 1:
        raise StaleError(f"the pattern stands {len(found)} times in {row.function}")
    wrong = text[: found[0].start()] + row.replacement + text[found[0].end() :]
    if path.suffix == ".py":
        try:
            compile(wrong, row.file, "exec")
        except SyntaxError as error:
            raise StaleError(f"with the replacement it is not valid Python: {error}") from error
    return wrong


def as_expression(pattern: str) -> re.Pattern[str]:
    """A regular expression that matches the pattern with any white space, at word boundaries."""
    words = re.findall(r"\w+|[^\w\s]", pattern)
    left = r"(?<!\w)" if re.match(r"\w", words[0]) else ""
    right = r"(?!\w)" if re.match(r"\w", words[-1]) else ""
    return re.compile(left + r"\s*".join(map(re.escape, words)) + right)


class Seen:
    """A pytest plugin that records the outcome of each test."""

    def __init__(self) -> None:
        self.outcome = Outcome([], [], [])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test passes in its call phase, and fails or is skipped in any phase."""
        if report.outcome != "passed" or report.when == "call":
            getattr(self.outcome, report.outcome).append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported counts as a failed test."""
        if report.outcome == "failed":
            self.outcome.failed.append(report.nodeid)


def run_here(tests: list[str], root: Path, source: Path, options: list[str], answer: Connection) -> None:
    """Run the tests in this process with the package of ``source``, and send their outcome."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.environ.update(PYTHONPATH=str(source), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    sys.path.insert(0, str(source))
    sys.dont_write_bytecode = True
    os.chdir(root)
    import pytest
    from hypothesis import Phase, settings

    # examples are neither shrunk nor stored: only the failure matters
    settings.register_profile("mutations", database=None, phases=[Phase.explicit, Phase.generate], derandomize=True)
    settings.load_profile("mutations")
    seen = Seen()
    pytest.main(["-q", "--tb=no", "-p", "no:cacheprovider", *options, *tests], plugins=[seen])
    module = sys.modules.get("undiffuse")
    used = module is None or Path(str(module.__file__)).is_relative_to(source)
    answer.send(seen.outcome if used else None)


def outcome_of(tests: list[str], root: Path, source: Path, *options: str, seconds: float = SECONDS) -> Outcome:
    """The outcome of the tests with the package of ``source``; a timeout counts as a failure."""
    ways = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    if "forkserver" in ways:
        context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=run_here, args=(tests, root, source, list(options), there))
    process.start()
    there.close()
    try:
        outcome = here.recv() if here.poll(seconds) else Outcome(["(did not end)"], [], [])
    except EOFError:
        outcome = Outcome(["(the process fell)"], [], [])
    finally:
        process.kill()
        process.join()
    if outcome is None:
        raise RuntimeError("the tests import another package than the copy")
    return outcome


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A temporary folder with a copy of the package."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder).resolve() / "src"
        shutil.copytree(root / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        yield source


def run_rows(rows: list[Row], root: Path) -> Counter[str]:
    """Run every row, print its result, and count the results."""
    count: Counter[str] = Counter()
    with copy_of(root) as source:

        @cache
        def passes_unbroken(test: str) -> bool:
            return not outcome_of([test], root, source).failed

        for row in rows:
            started = time.perf_counter()
            result, why = result_of(row, root, source)
            if result == "killed" and not passes_unbroken(why):
                result = "UNSOUND"
            count[result] += 1
            say(row, result, why, time.perf_counter() - started)
    return count


def result_of(row: Row, root: Path, source: Path) -> tuple[str, str]:
    """(result, failed test or reason) of one row; the copy of the package is restored afterwards."""
    file = source / "undiffuse" / row.file
    try:
        wrong = broken(row, source / "undiffuse")
    except StaleError as stale:
        return "stale", str(stale)
    gone = [test for test in row.tests if not is_there(test, root)]
    if gone:
        return "stale", f"no test {gone[0]}"
    original = file.read_text(encoding="utf-8")
    file.write_text(wrong, encoding="utf-8")
    try:
        outcome = outcome_of(list(row.tests), root, source, "-x")
    finally:
        file.write_text(original, encoding="utf-8")
    if outcome.failed:
        return "killed", outcome.failed[0]
    if outcome.passed:
        return "SURVIVED", row.tests[0]
    return ("skipped", outcome.skipped[0]) if outcome.skipped else ("stale", f"no test {row.tests[0]}")


def is_there(test: str, root: Path) -> bool:
    """Whether the test's file defines it; parameters are not checked."""
    path, _, name = test.partition("::")
    file = root / path
    function = name.partition("[")[0].replace("::", ".")
    return file.is_file() and (not name or bool(places(file.read_text(encoding="utf-8"), ".py", function)))


def check(rows: list[Row], root: Path) -> Counter[str]:
    """Print the stale rows, without running tests."""
    count: Counter[str] = Counter()
    for row in rows:
        try:
            broken(row, root / "src" / "undiffuse")
            gone = [test for test in row.tests if not is_there(test, root)]
            if gone:
                raise StaleError(f"no test {gone[0]}")
        except StaleError as stale:
            say(row, "stale", str(stale))
            count["stale"] += 1
        else:
            count["fresh"] += 1
    return count


def say(row: Row, result: str, why: str, seconds: float | None = None) -> None:
    """Print one line of the table."""
    took = "" if seconds is None else f"{seconds:5.1f} s  "
    print(f"{result:8s}  {row.file:34s}  {row.name:52s}  {took}{why}", flush=True)


def chosen(rows: list[Row], words: list[str]) -> list[Row]:
    """The rows of the requested packages, or whose names contain the words; all rows without words.

    Raises:
        SystemExit: if a word matches no row.
    """
    rooms = sorted({row.room for row in rows})
    for word in words:
        if word not in rooms and not any(word in row.name for row in rows):
            print(f"{word!r} is neither a package nor in a row's name; packages: {', '.join(rooms)}", file=sys.stderr)
            raise SystemExit(2)
    return [row for row in rows if not words or any(word == row.room or word in row.name for word in words)]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run, or only check, the requested rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="a package, or part of a row's name")
    parser.add_argument("--check", action="store_true", help="only check that the patterns still match")
    options = parser.parse_args(arguments)
    rows = chosen(read_rows(root / "tests" / "mutations"), options.words)
    count = check(rows, root) if options.check else run_rows(rows, root)
    print(f"{len(rows)} rows: {', '.join(f'{number} {result}' for result, number in sorted(count.items()))}")
    return 1 if any(count[result] for result in BAD) else 0


if __name__ == "__main__":
    raise SystemExit(main())
