"""Where the program begins: names first, the parser only where they are right, and one line for what went wrong."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from undiffuse.cli.escaping import escape_unprintable
from undiffuse.cli.renamed import renamed
from undiffuse.errors import UndiffuseError

#: Set by a shell that asks what may be typed next.
_COMPLETING = "_UNDIFFUSE_COMPLETE"


def run_program(run: Callable[[list[str]], int], arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 2 for what the user can mend, 1 for a failure while running.

    Args:
        run: parses a line and does what it says; whoever begins imports the parser there, and not before.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # understood anywhere on the line
    arguments, notes = renamed([argument for argument in arguments if argument != "--debug"])
    for note in notes:
        _print_error(f"note: {note}")
    sys.exit(_check_names(arguments, debug) or _ran(run, arguments, debug))


def _check_names(arguments: list[str], debug: bool) -> int:
    """The exit code for a line that is wrong by its names; 0 where none is found to be."""
    if _COMPLETING in os.environ:
        return 0
    try:
        from undiffuse.cli.checks.commands import check_line

        check_line(arguments)
    except UndiffuseError as error:
        return _complain(error, error.exit_code, debug)
    except KeyboardInterrupt:
        return _interrupted()
    return 0


def _ran(run: Callable[[list[str]], int], arguments: list[str], debug: bool) -> int:
    from undiffuse.cancellation import Cancel
    from undiffuse.cli.signals import SIGPIPE_NUMBER, discard_closed_output, exit_on_signals, is_broken_pipe
    from undiffuse.cli.terminal import Terminal
    from undiffuse.observer import observing

    try:
        with exit_on_signals(), observing(Terminal(), Cancel()):
            code: object = run(arguments)
    except SystemExit as stop:  # of a signal; or of the parser, when it finds that whoever read the output is gone
        code = 128 + SIGPIPE_NUMBER if is_broken_pipe(stop.__context__) else stop.code
    except UndiffuseError as error:
        code = _complain(error, error.exit_code, debug)
    except KeyboardInterrupt:
        code = _interrupted()
    except Exception as error:
        code = 128 + SIGPIPE_NUMBER if is_broken_pipe(error) else _complain(error, 1, debug, _unexpected(error))
    code = code if isinstance(code, int) else 0
    return 128 + SIGPIPE_NUMBER if discard_closed_output() and code == 0 else code


def _unexpected(error: Exception) -> str:
    if _out_of_memory(error):
        return "out of memory; lower --batch-size, or batch_images or micro_batch_images"
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _out_of_memory(error: Exception) -> bool:
    """Python's own error, or torch's for the CPU or the GPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 130


def _complain(error: BaseException, code: int, debug: bool, text: str | None = None) -> int:
    if debug:
        raise error
    line = escape_unprintable(" ".join((text if text is not None else str(error)).split()))
    _print_error(f"undiffuse: {line}")
    return code


def _print_error(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever read it is gone
        print(line, file=sys.stderr, flush=True)
