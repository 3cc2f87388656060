"""One module a format; each has ``load(config) -> Dataset`` and is imported when a source of that kind is asked for."""
