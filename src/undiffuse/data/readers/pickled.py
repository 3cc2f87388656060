"""Safe reader of the pickles of CIFAR's Python version: the bytes are interpreted here, and nothing is called.

A pickle is a program for a virtual machine with a stack and a memo. ``pickletools.genops`` splits it into instructions;
this machine implements those that Python 2's ``cPickle`` used for dictionaries, lists, tuples, strings, integers and
arrays of bytes, and raises an error for any other. A pickle may import three names, which are mapped to constants of
this module: no module is imported, and only dict, list, tuple, str, int and uint8 arrays are created.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from undiffuse.errors import UsageError

MAX_BYTES = 2**28  # of one pickle; the largest of CIFAR's is 155 MB
MAX_STEPS = 2**22  # instructions; CIFAR-100's train file has a quarter of a million
MAX_AXES = 4


@dataclass(frozen=True)
class _Global:
    """A name that the pickle imports."""

    name: str


@dataclass
class _Array:
    """An array that is created empty and filled from its state."""

    value: Any = None


@dataclass
class _Dtype:
    """The dtype of an array: unsigned bytes."""


_RECONSTRUCT, _NDARRAY, _DTYPE = (
    _Global("numpy.core.multiarray _reconstruct"),
    _Global("numpy ndarray"),
    _Global("numpy dtype"),
)
_ALLOWED = {entry.name: entry for entry in (_RECONSTRUCT, _NDARRAY, _DTYPE)}
_MARK = object()


class _InvalidPickleError(Exception):
    """A problem in the pickle; the message does not include the title."""


@dataclass
class _VirtualMachine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    bytes_left: int = field(
        default_factory=lambda: MAX_BYTES
    )  # for arrays: many arrays may share one content by the memo

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _InvalidPickleError("its stack runs empty")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise _InvalidPickleError(f"it changes something that is not a {kind.__name__.strip('_')}")
        return self.stack[-1]

    def to_mark(self) -> list[Any]:
        """Pop all values above the last mark, and the mark."""
        values: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return values[::-1]
            values.append(value)
        raise _InvalidPickleError("a mark is missing")

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise _InvalidPickleError("it reads a memo entry that was never stored")
        self.push(self.memo[place])

    def store(self, place: int) -> None:
        self.memo[place] = self.top(object)

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def update(self, values: list[Any]) -> None:
        if len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise _InvalidPickleError("a dictionary whose keys are not strings")
        self.top(dict).update(zip(values[::2], values[1::2], strict=True))

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def call(self) -> None:
        """Emulate the two calls that create an empty array and a dtype; nothing is called."""
        arguments, called = self.pop(), self.pop()
        if called is _RECONSTRUCT and isinstance(arguments, tuple) and arguments and arguments[0] is _NDARRAY:
            self.push(_Array())
        elif called is _DTYPE and isinstance(arguments, tuple) and arguments and arguments[0] in ("u1", "|u1"):
            self.push(_Dtype())
        else:
            raise _InvalidPickleError(
                "it calls something other than the constructors of an array and of the dtype uint8"
            )

    def build(self) -> None:
        state, target = self.pop(), self.top(object)
        if isinstance(target, _Array) and target.value is None:
            target.value = _filled(state, self.bytes_left)
            self.bytes_left -= target.value.size
        elif not isinstance(target, _Dtype):
            raise _InvalidPickleError("it sets the state of an object without state")


def _filled(state: Any, limit: int) -> Any:
    """The array of a state (version, shape, dtype, Fortran order, content)."""
    if (
        not isinstance(state, tuple)
        or len(state) != 5
        or not isinstance(state[2], _Dtype)
        or type(state[3]) is not bool
    ):
        raise _InvalidPickleError("an array in a form that CIFAR's files do not have")
    _, shape, _, fortran_order, content = state
    valid = isinstance(shape, tuple) and len(shape) <= MAX_AXES and all(type(s) is int and s >= 0 for s in shape)
    if not valid or not isinstance(content, str):
        raise _InvalidPickleError("an array in a form that CIFAR's files do not have")
    if len(content) > limit:
        raise _InvalidPickleError(f"its arrays have more than {MAX_BYTES} bytes")
    try:
        levels = np.frombuffer(content.encode("latin-1"), dtype=np.uint8)
    except UnicodeEncodeError:
        raise _InvalidPickleError("an array whose content is not bytes") from None
    if math.prod(shape) != len(levels):
        raise _InvalidPickleError(f"an array of {len(levels)} bytes with the shape {'x'.join(map(str, shape))}")
    return levels.reshape(shape, order="F" if fortran_order else "C")


def _global(vm: _VirtualMachine, name: str) -> None:
    if name not in _ALLOWED:
        raise _InvalidPickleError(
            f"it imports {name[:60].replace(' ', '.')!r}, which no data set needs: it may be malicious"
        )
    vm.push(_ALLOWED[name])


def _pass(vm: _VirtualMachine, argument: Any) -> None:
    """No-op."""


def _push(vm: _VirtualMachine, argument: Any) -> None:
    vm.push(argument)


_STEPS: dict[str, Callable[[_VirtualMachine, Any], None]] = {
    "PROTO": _pass,
    "MARK": lambda vm, _: vm.push(_MARK),
    "NONE": lambda vm, _: vm.push(None),
    "NEWTRUE": lambda vm, _: vm.push(True),
    "NEWFALSE": lambda vm, _: vm.push(False),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2"), _push),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE"), _push),
    "EMPTY_LIST": lambda vm, _: vm.push([]),
    "EMPTY_DICT": lambda vm, _: vm.push({}),
    "EMPTY_TUPLE": lambda vm, _: vm.push(()),
    "LIST": lambda vm, _: vm.push(vm.to_mark()),
    "TUPLE": lambda vm, _: vm.push(tuple(vm.to_mark())),
    "TUPLE1": lambda vm, _: vm.tuple_of(1),
    "TUPLE2": lambda vm, _: vm.tuple_of(2),
    "TUPLE3": lambda vm, _: vm.tuple_of(3),
    "DICT": lambda vm, _: _dict(vm),
    "APPEND": lambda vm, _: vm.extend([vm.pop()]),
    "APPENDS": lambda vm, _: vm.extend(vm.to_mark()),
    "SETITEM": lambda vm, _: vm.update([vm.pop(), vm.pop()][::-1]),
    "SETITEMS": lambda vm, _: vm.update(vm.to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda vm, place: vm.store(place)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda vm, place: vm.recall(place)),
    "GLOBAL": _global,
    "REDUCE": lambda vm, _: vm.call(),
    "BUILD": lambda vm, _: vm.build(),
}


def _dict(vm: _VirtualMachine) -> None:
    values = vm.to_mark()
    vm.push({})
    vm.update(values)


def read_pickle(content: bytes, title: str) -> dict[str, Any]:
    """The dictionary in one of CIFAR's pickles; its arrays are uint8 NumPy arrays.

    Args:
        content: bytes of the file, protocol 0 to 2 as written by Python 2.
        title: name of the file in messages.

    Raises:
        UsageError: corrupt, truncated, or with content other than strings, integers, lists, dictionaries and uint8
            arrays.
    """
    if len(content) > MAX_BYTES:
        raise UsageError(f"{title}: {len(content)} bytes are more than the {MAX_BYTES} of CIFAR's largest pickle")
    try:
        found = _run(content)
    except _InvalidPickleError as problem:
        raise UsageError(f"{title}: not read: {problem}; take the file that CIFAR's authors publish") from None
    except (ValueError, OverflowError, UnicodeError) as error:  # raised by genops for corrupt pickles
        first = str(error).partition("\n")[0][:100]
        raise UsageError(f"{title}: damaged or cut short ({first}); fetch it again") from None
    return {key: value.value if isinstance(value, _Array) else value for key, value in found.items()}


def _run(content: bytes) -> dict[str, Any]:
    vm = _VirtualMachine()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        if count > MAX_STEPS:
            raise _InvalidPickleError(f"it has more than {MAX_STEPS} instructions")
        if instruction.name == "STOP":
            found = vm.pop()
            if not isinstance(found, dict):
                raise _InvalidPickleError("it contains no dictionary")
            return found
        step = _STEPS.get(instruction.name)
        if step is None:
            raise _InvalidPickleError(f"it has the instruction {instruction.name}, which CIFAR's files do not have")
        step(vm, argument)
    raise _InvalidPickleError("it has no end")
