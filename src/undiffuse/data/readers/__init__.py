"""Readers of file formats and encoded images, from bytes to arrays; independent of the data set classes."""
