"""One module for each data source, with ``load(config) -> Dataset``; it is imported when its source is first used."""
