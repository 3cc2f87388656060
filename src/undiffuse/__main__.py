"""``python -m undiffuse``: the command line."""

from __future__ import annotations

from undiffuse.cli.entry import run_program


def main(arguments: list[str] | None = None) -> None:
    """What is installed as ``undiffuse``."""
    run_program(_run, arguments)


def _run(arguments: list[str]) -> int:
    from undiffuse.cli.main import run  # the parser, which a line that is refused by its names does without

    return run(arguments)


if __name__ == "__main__":
    main()
