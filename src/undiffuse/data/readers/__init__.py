"""Readers of file formats and of encoded images, each from bytes to arrays; none knows what a data set is."""
