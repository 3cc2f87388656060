"""Entry point of the command line: early checks of names, then the parser; errors are printed in one line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from undiffuse.cli.escaping import escape_unprintable
from undiffuse.cli.renamed import renamed
from undiffuse.errors import UndiffuseError

#: Environment variable that a shell sets to request completions.
_COMPLETING = "_UNDIFFUSE_COMPLETE"


def run_program(run: Callable[[list[str]], int], arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 2 for a usage error, 1 for a failure at run time.

    Args:
        run: parses and executes a command line; the caller imports the parser inside it, not before.
        arguments: the command line without the program's name; ``sys.argv`` by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # allowed anywhere on the line
    arguments, notes = renamed([argument for argument in arguments if argument != "--debug"])
    for note in notes:
        _print_error(f"note: {note}")
    sys.exit(_check_names(arguments, debug) or _run_command(run, arguments, debug))


def _check_names(arguments: list[str], debug: bool) -> int:
    """Check the names on the command line; the exit code, 0 if they are valid."""
    if _COMPLETING in os.environ:
        return 0
    try:
        from undiffuse.cli.checks.commands import check_line

        check_line(arguments)
    except UndiffuseError as error:
        return _report_error(error, error.exit_code, debug)
    except KeyboardInterrupt:
        return _report_interrupt()
    return 0


def _run_command(run: Callable[[list[str]], int], arguments: list[str], debug: bool) -> int:
    from undiffuse.advice import command_line
    from undiffuse.cancellation import Cancel
    from undiffuse.cli.signals import SIGPIPE_NUMBER, discard_closed_output, exit_on_signals, is_broken_pipe
    from undiffuse.cli.terminal import Terminal
    from undiffuse.observer import observing

    try:
        with exit_on_signals(), command_line(), observing(Terminal(), Cancel()):
            code: object = run(arguments)
    except SystemExit as stop:  # from a signal handler, or from the parser on a broken pipe
        code = 128 + SIGPIPE_NUMBER if is_broken_pipe(stop.__context__) else stop.code
    except UndiffuseError as error:
        code = _report_error(error, error.exit_code, debug)
    except KeyboardInterrupt:
        code = _report_interrupt()
    except Exception as error:
        code = 128 + SIGPIPE_NUMBER if is_broken_pipe(error) else _report_error(error, 1, debug, _unexpected(error))
    code = code if isinstance(code, int) else 0
    return 128 + SIGPIPE_NUMBER if discard_closed_output() and code == 0 else code


def _unexpected(error: Exception) -> str:
    if _out_of_memory(error):
        return "out of memory; lower --batch-size, or batch_images or micro_batch_images"
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _out_of_memory(error: Exception) -> bool:
    """Whether it is Python's ``MemoryError`` or torch's error for the CPU or the GPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _report_interrupt() -> int:
    print("interrupted", file=sys.stderr)
    return 130


def _report_error(error: BaseException, code: int, debug: bool, text: str | None = None) -> int:
    if debug:
        raise error
    line = escape_unprintable(" ".join((text if text is not None else str(error)).split()))
    _print_error(f"undiffuse: {line}")
    return code


def _print_error(line: str) -> None:
    with contextlib.suppress(OSError):  # the reader has closed the pipe
        print(line, file=sys.stderr, flush=True)
