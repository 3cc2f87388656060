"""Repeating an image from the record in its file."""
