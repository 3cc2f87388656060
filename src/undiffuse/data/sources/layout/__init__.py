"""How images lie in folders and archives: their names, classes, captions and splits, and what kind of set that is."""
