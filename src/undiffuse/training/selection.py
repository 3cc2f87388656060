"""Parameters selected by patterns: those that are frozen, and those with another learning rate.

A pattern is the name of a group in ``GROUPS``, the name of a parameter or of a module (``network.down.0``), or a name
with the wildcards ``*`` and ``?``. In a list, later patterns take precedence; ``!pattern`` excepts parameters from
earlier patterns. ``!new_words`` and ``!new_classes`` except the rows of an embedding that the start model lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from undiffuse.errors import UsageError
from undiffuse.registry import nearest

#: Groups of parameters by name, as regular expressions.
GROUPS = {
    "all": r"",
    "encoder": r"network\.(stem|down)\.",
    "middle": r"network\.middle\.",
    "decoder": r"network\.(up|larger|norm|head|smooth)\.",
    "blocks": r"network\.(blocks|joint)\.",
    "attention": r".*\.attention\.",
    "embedding": r"network\.embedding\.",
    "classes": r"network\.embedding\.classes\.",
    "new_classes": r"network\.embedding\.classes\.",
    "new_words": r"conditioner\.encoder\.embedding\.",
    "text": r"conditioner\.|network\.(text|text_tokens|embedding\.pooled)\.|network\..*\.(text|cross)\.",
}


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern, without ``!``, selects a parameter.

    Args:
        pattern: see the module.
        name: the parameter's name in the model.
    Example:
        >>> matches("attention", "network.middle.attention.qkv.weight"), matches("network.up", "network.up.0.bias")
        (True, True)
    """
    if pattern in GROUPS:
        return re.match(GROUPS[pattern], name) is not None
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def selected(patterns: Iterable[str], names: Sequence[str], key: str) -> set[str]:
    """The names that a list of patterns selects.

    Args:
        patterns: see the module.
        names: names of all parameters.
        key: the configuration key of the patterns, for messages.
    Raises:
        UsageError: a pattern that matches no parameter.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = _matched(pattern.removeprefix("!"), names, key)
        found = found - matched if pattern.startswith("!") else found | matched
    return found


def _matched(pattern: str, names: Sequence[str], key: str) -> set[str]:
    if found := {name for name in names if matches(pattern, name)}:
        return found
    groups = [group for group in GROUPS if any(matches(group, name) for name in names)]
    raise UsageError(
        f"{key}: no parameter of this model matches {pattern!r}; {nearest(pattern, groups)}, or part of a parameter's "
        f"name such as {names[0]}"
    )


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Disable gradients of the parameters that the patterns select.

    Args:
        model: the model to train.
        patterns: of ``freeze`` in the configuration.
    Raises:
        UsageError: a pattern without a match, or nothing left to train.
    """
    parameters = dict(model.named_parameters())
    for name in selected(patterns, list(parameters), "freeze"):
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError(f"freeze={','.join(patterns)} leaves nothing to train; except a part, such as !attention")


def rate_factors(model: nn.Module, rates: Mapping[str, float]) -> dict[int, float]:
    """Factor of the learning rate by ``id`` of the parameter, for those that a pattern matches.

    Args:
        model: the model to train.
        rates: factor by pattern; the last match counts.
    Raises:
        UsageError: a pattern without a match.
    """
    parameters, factors = dict(model.named_parameters()), dict[int, float]()
    for pattern, factor in rates.items():
        for name in selected([pattern], list(parameters), "optimizer.rates"):
            factors[id(parameters[name])] = factor
    return factors
