"""Who may import whom, read from the source itself; nothing is imported to find out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from import_graph import circles, described, graph_of, modules_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "undiffuse"

#: Anyone may import these; they import each other only.
GROUND_FLOOR = (
    *(
        "cancellation",
        "cores",
        "errors",
        "registry",
        "config",
        "files",
        "leftovers",
        "locking",
        "images",
        "checksums",
        "version",
    ),
    *("advice", "captions", "limits", "observer", "progress", "seen", "user_cache", "wording"),
)

#: room -> what it may import next to the ground floor and itself, as prefixes of module names.
#: ``core`` is the vocabulary of all that calculates, so whoever may import a room built on it may import it too; the
#: exceptions stand as they are: ``networks`` and ``data`` know of a few modules of ``core`` alone,
#: ``metrics`` and ``report`` of the latter.
#: Of another room's registry of names and configurations (``objectives``, ``networks.config``) a recipe may speak.
RULE: dict[str, tuple[str, ...]] = {
    # reads properties back from images; data draws what it describes
    "annotators": (),
    "core": (),
    "compute": ("core.operators",),
    "losses": ("core",),
    "samplers": ("core",),
    "guidance": ("core", "samplers"),
    "networks": ("core.condition", "core.condition_spec", "core.operators", "core.space"),
    # names of weights in other libraries, as data
    "interop": (),
    "augment": ("core.random", "core.space"),
    "data": ("annotators", "core.per_sample", "core.space"),
    "metrics": ("annotators", "core.space"),
    "conditioning": ("annotators", "core"),
    "models": ("core", "losses.density", "samplers", "guidance", "networks", "conditioning", "compute"),
    "objectives": ("core", "losses", "samplers", "networks", "conditioning", "augment", "compute", "models"),
    "training": (
        "core",
        "augment",
        "compute",
        "conditioning.prompt",
        "data",
        "models",
        "objectives.OBJECTIVE_CONFIGS",
        "objectives.base",
    ),
    "evaluation": (
        *("core", "compute", "conditioning.prompt", "losses", "samplers", "data", "metrics", "models"),
        *("objectives.base", "objectives.from_model"),
    ),
    "studies": ("core", "losses", "samplers", "data", "metrics", "models"),
    "diagnostics": (
        *("core", "losses", "samplers", "data", "metrics", "models"),
        *("conditioning.text.config", "conditioning.text.vocabulary"),
    ),
    "reports": ("models.options", "core.space", "evaluation", "studies", "diagnostics"),
    "recipes": (
        *(
            "core",
            "losses",
            "conditioning.text.config",
            "networks.config",
            "networks.gan.config",
            "models.options",
            "models.denoising",
        ),
        *("objectives", "augment", "data", "training.config"),
    ),
    "zoo": (),
    # the top floor puts everything together, and nothing imports it but the package's own front door
    "api": (
        *("core", "augment", "compute", "losses.limits", "samplers", "models", "objectives", "data", "metrics"),
        *("networks.config", "networks.gan.config", "conditioning"),
        *("recipes", "training", "evaluation", "studies", "diagnostics", "reports", "zoo"),
    ),
    "experiments": (
        *("api", "core", "samplers", "models", "objectives", "data", "metrics"),
        *("recipes", "training", "evaluation", "studies", "reports"),
    ),
    # options of sampling are one model of plain configuration, and the flags follow from it
    "cli": ("api", "experiments", "models.options"),
    # refuses wrong names before anything heavy is imported: it knows the limits and the registries of all rooms
    "cli.checks": (
        *("api", "augment.config", "core.limits", "core.process_limits", "losses.limits", "data", "models"),
        "objectives",
        *(
            "networks.config",
            "networks.gan.config",
            "conditioning.text.config",
            "recipes",
            "training",
            "studies",
            "zoo",
            "metrics",
            "samplers",
        ),
        *("evaluation", "core.processes", "core.parameterization"),
    ),
    "__main__": ("cli.main", "cli.entry"),
}

#: The package's front door: names that are imported when they are first asked for.
FRONT_DOOR = "__init__"
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MODULE_NAME = re.compile(r"undiffuse(\.\w+)+(:\w+)?")


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def package_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    within = ".".join(parts[:2])
    return within if within in RULE else parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, ``from a import b`` as ``a.b``, and of every ``"module:name"`` string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            yield node.lineno, node.value.replace(":", ".")


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@cache
def tree_of(path: Path) -> ast.Module:
    """A file is read once for all the tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def broken_rules(source: str | ast.Module, package: str) -> list[str]:
    """Imports of ours in ``source`` that its room may not make."""
    allowed = GROUND_FLOOR if package in GROUND_FLOOR else (*GROUND_FLOOR, package, *RULE[package])
    return [
        f"line {line}: {package} may not import {name}"
        for line, name in imported(ast.parse(source) if isinstance(source, str) else source)
        if name.split(".")[0] == "undiffuse" and not within(name.removeprefix("undiffuse."), allowed)
    ]


@pytest.mark.parametrize("path", files_of("src/undiffuse"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_import_what_they_may(path: Path) -> None:
    if package_of(path) == FRONT_DOOR:
        return
    assert not broken_rules(tree_of(path), package_of(path))


def test_every_package_has_its_rule_and_no_two_wait_for_each_other() -> None:
    packages = {package_of(path) for path in files_of("src/undiffuse")} - {FRONT_DOOR, *GROUND_FLOOR}
    assert packages <= set(RULE)
    assert set(order_of_packages()) >= packages


def order_of_packages() -> list[str]:
    """From the ground up, each above all that it may import; a circle among them raises ``graphlib.CycleError``."""
    packages = {package: {prefix.split(".")[0] for prefix in prefixes} for package, prefixes in RULE.items()}
    return list(TopologicalSorter(packages).static_order())


@cache
def sources() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in modules_of(PACKAGE).items()}


def test_no_modules_need_each_other() -> None:
    """Not by an import within a function, not by a ``"module:name"`` string, and not for types either."""
    graph = graph_of(sources(), with_types=True)
    found = circles(graph)
    without_types = circles(graph_of(sources(), with_types=False)) if found else []
    message = [
        f"a circle of {len(circle)} modules{'' if circle in without_types else ', some of it for types'}; let what "
        f"they share move into a module below them:\n{described(graph, circle)}"
        for circle in found
    ]
    assert not message, "\n\n".join(message)


def test_no_module_needs_one_of_a_package_above() -> None:
    height = {package: number for number, package in enumerate(order_of_packages(), start=1)}
    height |= dict.fromkeys(GROUND_FLOOR, 0) | {"undiffuse": len(height) + 1}
    package = {module: module.removeprefix("undiffuse.").split(".")[0] for module in sources()}
    upward = [
        f"{module}:{line} needs {target}"
        for module, targets in graph_of(sources(), with_types=True).items()
        for target, line in targets.items()
        if height[package[target]] > height[package[module]]
    ]
    assert not upward


@pytest.mark.parametrize(
    ("second", "by_types"),
    [
        ("import undiffuse.a", False),
        ("from undiffuse import a", False),
        ("def f():\n    from undiffuse.a import g", False),
        ('ROWS = {"a": "undiffuse.a:g"}', False),
        ('def f(name):\n    return resolve(f"undiffuse.{name}")', False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from undiffuse.a import g", True),
    ],
)
def test_the_test_sees_a_circle(second: str, by_types: bool) -> None:
    modules = {"undiffuse.a": "from undiffuse.b import f", "undiffuse.b": second, "undiffuse.c": ""}
    assert circles(graph_of(modules, with_types=True)) == [["undiffuse.a", "undiffuse.b"]]
    assert bool(circles(graph_of(modules, with_types=False))) is not by_types


def test_the_test_lets_a_line_pass() -> None:
    modules = {"undiffuse.a": "from undiffuse.b import f", "undiffuse.b": '"""See undiffuse.a:g."""', "undiffuse": ""}
    assert not circles(graph_of(modules, with_types=True))


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("core", "from undiffuse.losses.weighting import simple"),
        ("core", "def f():\n    import undiffuse.samplers.base"),
        ("losses", "from undiffuse import samplers"),
        ("networks", "from undiffuse.core.process import Process"),
        ("networks", "from undiffuse.compute import fused_norm"),
        ("metrics", "from undiffuse.core.condition import Condition"),
        ("training", "from undiffuse.objectives.diffusion import DiffusionConfig"),
        ("objectives", 'ROWS = {"digits": "undiffuse.data.sources.digits:load"}'),
        ("errors", "from undiffuse.core.rows import per_row"),
        ("reports", "from undiffuse.cli.main import main"),
    ],
)
def test_the_test_sees_a_broken_rule(package: str, source: str) -> None:
    assert broken_rules(source, package)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("core", "from undiffuse.errors import UsageError\nimport torch"),
        ("networks", "from undiffuse.core.condition import Condition"),
        ("training", "from undiffuse.objectives import OBJECTIVE_CONFIGS"),
        ("objectives", '"""See undiffuse.data.sources for more."""'),
    ],
)
def test_the_test_lets_the_rest_pass(package: str, source: str) -> None:
    assert not broken_rules(source, package)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` as it is written; what is called on anything but a name is ``?.c``."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(word.value) for word in call.keywords if word.arg == name), None)


@pytest.mark.parametrize("folder", ["src", "tools", "benchmarks", "examples", "tests"])
def test_nothing_unpickles_and_nothing_needs_torchvision(folder: str) -> None:
    for path in files_of(folder):
        tree = tree_of(path)
        roots = {name.split(".")[0] for _, name in imported(tree)}
        assert not roots & {"torchvision", *UNPICKLERS}, path
        for name, call in calls(tree):
            if name == "torch.load":
                assert keyword(call, "weights_only") is True, f"{path}:{call.lineno}"
            if name.split(".")[-1] == "load" and name.split(".")[0] in ("np", "numpy"):
                assert not keyword(call, "allow_pickle"), f"{path}:{call.lineno}"


def test_nobody_requests_a_process_for_its_class() -> None:
    processes = re.compile(r"\b(Process|DiscreteVP|VPSDE|EDMProcess|FlowProcess|VariancePreserving|RescaledProcess)\b")
    for path in files_of("src/undiffuse"):
        for name, call in calls(tree_of(path)):
            if name in ("isinstance", "issubclass"):
                assert not processes.search(ast.unparse(call.args[1])), f"{path}:{call.lineno}"
