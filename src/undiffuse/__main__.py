"""``python -m undiffuse``: the command line."""

from __future__ import annotations

from undiffuse.cli.entry import run_program


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script ``undiffuse``."""
    run_program(_run, arguments)


def _run(arguments: list[str]) -> int:
    from undiffuse.cli.main import run  # imports the parser, only if the names on the command line are valid

    return run(arguments)


if __name__ == "__main__":
    main()
