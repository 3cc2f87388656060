"""Decoding of one image file to sRGB pixels: bit depth, orientation and colour profile."""
