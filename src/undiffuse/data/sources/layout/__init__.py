"""Layouts of images in folders and archives: names, classes, captions and splits, and detection of the kind of data."""
