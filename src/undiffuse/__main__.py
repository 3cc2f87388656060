"""``python -m undiffuse``: the command line."""

from undiffuse.app.entry import main

if __name__ == "__main__":
    main()
