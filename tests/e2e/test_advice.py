"""Everything that a message advises is there: its command parses, its option is known, its key and value are valid.

Read from the source by ``advice``; that the advice also helps where it is given is shown in
``test_advice_followed.py``.
"""

from __future__ import annotations

import inspect
import itertools
from functools import cache
from typing import Any

import pytest
import typer
from advice import HOLE, Advice, Message, advice_in, built_commands, messages

import undiffuse
from undiffuse.api.configuration.overrides import apply_overrides, read_options, read_value
from undiffuse.cli.checks import names
from undiffuse.cli.main import app
from undiffuse.compute.backend import ComputeConfig
from undiffuse.config import validate
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.errors import UsageError
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.registry import resolve
from undiffuse.studies import MODEL_STUDIES

#: ``undiffuse`` followed by a word that is no command.
PROSE = {"prepared", "that", "reads"}

#: Where options are advised -> the commands whose users may read it; of those in a set all must know the option, of
#: those in a list one: such a message speaks of another command than the one that says it.
REACH: dict[str, set[str] | list[str]] = {
    "api/configuration/starts.py": {"train"},
    "cli/checks/commands.py": ["data info", "doctor"],
    "cli/main.py": ["train", "sample", "evaluate"],
    "cli/distill.py": {"distill"},
    "cli/measure.py": {"evaluate"},
    "cli/options.py": ["train", "export", "compare"],
    "api/comparing.py": {"compare"},
    "api/distilling.py": ["distill", "train"],
    "api/examining.py": {"doctor"},
    "cli/checks/data.py": ["data info", "evaluate"],
    "api/arguments.py": [
        *("sample", "doctor", "invert", "export", "data prepare", "study parameterization", "study small-data"),
        "study theory",
    ],
    "api/inverting.py": {"invert"},
    "api/evaluating.py": {"evaluate"},
    "api/exporting.py": {"export"},
    "cli/download.py": ["data get", "train"],
    "cli/data_info.py": {"data info"},
    "api/loading.py": {
        "demo",
        "train",
        "sample",
        "distill",
        "export",
        "evaluate",
        "invert",
        "report",
        "doctor",
        "study neighbours",
    },
    "api/datasets/preparing.py": ["data prepare", "data info", "train"],
    "api/configuration/recipe_choice.py": {"train"},
    "api/sampling.py": {"sample"},
    "api/datasets/reference_data.py": {"evaluate", "report", "doctor", "study neighbours"},
    "api/reporting.py": ["report", "evaluate", "sample"],
    "cli/terminal.py": {"evaluate", "compare"},
    "experiments/small_data.py": {"study small-data"},
    "api/configuration/sources.py": ["data prepare", "compare"],
    "api/studying.py": {"study theory"},
    "api/training.py": {"train", "distill"},
    "experiments/trainings.py": {"study parameterization", "study one-class"},
    "data/download/fetch.py": {"data get"},
    "data/download/get.py": {"data get"},
    "data/prepare/": {"data prepare"},
    "data/prepare/checks.py": {"data prepare"},
    "diagnostics/": ["doctor", "sample", "evaluate"],
    "evaluation/__init__.py": {"evaluate"},
    "evaluation/image_metrics.py": {"evaluate", "compare"},
    "evaluation/context.py": {"evaluate"},
    "files.py": {"sample", "invert", "export", "ema"},
    "models/classes.py": {"sample"},
    "models/files/int8.py": {"export"},
    "models/saved.py": ["sample", "train"],
    "reports/ranking.py": ["train"],
    "studies/ablations/one_class.py": {"study one-class"},
    "training/trainer.py": {"train", "distill"},
}
#: Of a file that is not in the table some command at least must know it.
EVERY = ["demo", "train", "distill", "export", "ema", "sample", "evaluate", "compare", "invert", "report", "doctor"]
#: Options of other programs, and what looks like one.
NOT_OURS = {"--version", "--no-deps", "--muted", "--rule", "--train", "--ema", "--raw", "--run"}
#: Of these files only the names of our own are looked at: variables of style sheets and of pages.
NO_ADVICE = ("reports/figures.py",)
#: In one place, an option of one command alone is said to all who read it, with the reason.
EXCEPTIONS = {
    (
        "api/datasets/reference_data.py",
        "--metrics",
    ): "only an evaluation has metrics to choose, and only there is it said",
    ("api/datasets/reference_data.py", "--data"): "",
    ("api/training.py", "--data"): "",
    ("api/training.py", "--config"): "",
    ("files.py", "--overwrite"): "",
}

#: Keys of Python functions and of headers, which no user types on the command line.
OF_FUNCTIONS = {
    "rank",
    "num_ranks",
    "start",
    "count",
    "bytes",
    "key",
    "s",
    "width",
    "height",
    "bid",
    "href",
    "class_name",
    "overwrite",
}
#: What is said of a configuration that was received, in the words of its own section.
ECHOED = {
    ("data/sources/layout/captions.py", "labels"),
    ("data/sources/stacked.py", "channels"),
    ("data/sources/parquet.py", "label_column"),
    ("data/sources/emoji.py", "vendor"),
    ("evaluation/modes.py", "noise"),
    ("studies/theory/ground_truth.py", "noise"),
    ("networks/config.py", "progressive_combine"),
    ("networks/config.py", "long_skips"),
    ("networks/config.py", "conditioning"),
    ("data/config/join.py", "oil"),
    ("data/config/join.py", "photo"),
    *(("data/config/scenes.py", key) for key in ("sizes", "digits", "objects", "pairs")),
    *(("data/config/join.py", part) for part in ("oil", "photo")),  # parts have the user's own names
    ("objectives/rules.py", "learned_variance"),
    ("objectives/rules.py", "objective"),
    ("objectives/rules.py", "time_draws"),
    ("models/rules.py", "label_dropout"),
    ("api/datasets/reference_data.py", "channels"),
}

PARSER: Any = typer.main.get_command(app)


@cache
def harvest() -> list[Advice]:
    return list(itertools.chain.from_iterable(advice_in(message) for message in messages()))


def place(advice: Advice) -> str:
    return advice.message.place.partition(":")[0]


def described(advice: Advice) -> str:
    return f"{advice.message.place}: {' '.join(advice.words)} in {advice.message.text!r}".replace(HOLE, "{}")


def command_named(words: tuple[str, ...]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the rest of them."""
    found = PARSER.commands.get(words[0])
    assert found is not None, f"no command {words[0]!r}"
    rest = list(words[1:])
    if hasattr(found, "commands") and rest:
        inner = found.commands.get(rest[0])
        assert inner is not None, f"no command {' '.join(words[:2])!r}"
        return inner, rest[1:]
    return found, rest


@cache
def options_of(command: str) -> frozenset[str]:
    found, _ = command_named(tuple(command.split()))
    return frozenset(option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts))


def parses(words: tuple[str, ...]) -> None:
    """The parser itself takes the words; what stands for something is filled in with a number, which is a text too."""
    command, rest = command_named(words)
    filled = ["4" if HOLE in word or word.isupper() else word for word in rest]
    if command.params and not hasattr(command, "commands"):
        command.make_context("undiffuse", filled)


def test_the_harvest_is_not_empty() -> None:
    kinds = [advice.kind for advice in harvest()]
    assert kinds.count("pair") > 200 and kinds.count("option") > 100 and kinds.count("command") > 20


def test_every_command_parses() -> None:
    for advice in harvest():
        if advice.kind == "command" and advice.words[0] not in PROSE:
            try:
                parses(advice.words)
            except Exception as error:  # the parser's own, or an assertion
                pytest.fail(f"{described(advice)}: {error}")


def test_every_command_that_is_put_together_parses() -> None:
    calls = list(built_commands())
    assert len(calls) > 15
    for message in calls:
        parses(tuple(message.text.split(" ")[1:]))


def test_every_option_is_known_where_it_is_advised() -> None:
    for advice in harvest():
        if advice.kind != "option" or advice.words[0] in NOT_OURS | {"--debug", "--help"} or place(advice) in NO_ADVICE:
            continue
        name, where = advice.words[0], place(advice)
        reach = next((commands for prefix, commands in REACH.items() if where.startswith(prefix)), EVERY)
        knowing = [command for command in reach if name in options_of(command)]
        enough = bool(knowing) if isinstance(reach, list) or (where, name) in EXCEPTIONS else len(knowing) == len(reach)
        assert enough, f"{described(advice)}: of {sorted(reach)} only {knowing} know it"


@cache
def rejection(key: str, value: str) -> str | None:
    """Why no configuration takes this pair; ``None`` where one does, or minds only what it goes together with."""
    try:
        names.check_overrides([f"{key}={value}"])
    except UsageError as error:
        return str(error)
    said = None
    for recipe in RECIPES:
        try:
            apply_overrides(get_recipe(recipe), [f"{key}={value}"])
            return None
        except UsageError as error:
            said = str(error)
            if not any(words in said for words in ("has no key", "Input should", "expected", "unknown", "no section")):
                return None  # another key has to change too: no question of this one
    return said


def of_a_source(key: str, value: str) -> bool:
    """Whether a data source has the key and takes the value."""
    found = False
    for name, model in SOURCE_CONFIGS.items():
        if key in model.model_fields:
            values: dict[str, Any] = {"name": name, key: read_value(value)}
            try:
                validate(model, {**({"path": "x"} if "path" in model.model_fields else {}), **values})
                found = True
            except UsageError:
                continue
    return found


def of_a_row(key: str, value: str) -> bool:
    """Whether it is an option of a sampler, a grid or a process, as in ``ddim:eta=1``."""
    row, _, option = key.rpartition(":")
    for kind in ("sampler", "time grid", "process"):
        for name in [row] if row else names.names_in(names.REGISTRIES[kind]):
            try:
                names.check_spec(kind, f"{name}:{option}={value}")
                return True
            except UsageError:
                continue
    return False


def of_a_study(key: str, value: str) -> bool:
    for name, study in MODEL_STUDIES.items():
        model = resolve(study.options)
        if key in model.model_fields:
            try:
                read_options(model, [f"{key}={value}"], name)
                return True
            except UsageError as error:
                if "has no key" not in str(error) and "Input should" not in str(error):
                    return True
    return False


def _unknown_key(key: str) -> str | None:
    try:
        names.check_overrides([f"{key}=null"])
    except UsageError as error:
        return str(error) if "has no" in str(error) else None
    return None


def fault_of(pair: Advice) -> str | None:
    key, value = pair.words
    if key in OF_FUNCTIONS or (place(pair), key) in ECHOED or place(pair) in NO_ADVICE:
        return None
    filled_in = not value or HOLE in value or value.isupper()
    if key.startswith("data."):
        name = key.removeprefix("data.")
        known = any(name in model.model_fields for model in SOURCE_CONFIGS.values())
        valid = known if filled_in or name in ("array", "image_column", "attribute") else of_a_source(name, value)
        return None if valid else "no data source takes it"
    if filled_in:
        return _unknown_key(key) if key.split(".")[0] in ("system", "optimizer", "ema", "loader") else None
    if place(pair) == "compute/backend.py":
        return None if key in ComputeConfig.model_fields else "no such choice"
    if ":" in key or (place(pair).startswith("samplers/") and "." not in key):
        return None if of_a_row(key, value) else "no sampler, grid or process has it"
    if place(pair).startswith("studies/") and of_a_study(key, value):
        return None
    return rejection(key, value)


def test_every_key_and_value_is_valid() -> None:
    faults = {described(advice): fault for advice in harvest() if advice.kind == "pair" and (fault := fault_of(advice))}
    assert not faults, "\n".join(f"{text}: {fault}" for text, fault in faults.items())


def test_every_call_in_python_has_its_keywords() -> None:
    calls = [advice.words for advice in harvest() if advice.kind == "call" and len(advice.words) > 1]
    assert ("train", "out", "resume") in calls
    for verb, *keywords in calls:
        assert set(keywords) <= set(inspect.signature(getattr(undiffuse, verb)).parameters), verb


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("go on with: undiffuse train --resume --ot X", ("train", "--resume", "--ot", "X")),
        ("next: undiffuse smple X -n 64", ("smple", "X", "-n", "64")),
        ("run 'undiffuse data gett NAME' again", ("data", "gett", "NAME")),
    ],
)
def test_the_test_sees_a_command_that_is_rejected(text: str, words: tuple[str, ...]) -> None:
    (advice,) = [found for found in advice_in(Message("x.py:1", text)) if found.kind == "command"]
    assert advice.words == words
    with pytest.raises(Exception):  # noqa: B017 (the parser's own, or an assertion)
        parses(advice.words)


@pytest.mark.parametrize("text", ["say on_error=skip", "take data.fit=crops", "say system.objektive=hybrid"])
def test_the_test_sees_a_key_that_is_rejected(text: str) -> None:
    (advice,) = advice_in(Message("data/x.py:1", text))
    assert fault_of(advice)
