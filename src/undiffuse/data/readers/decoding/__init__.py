"""From the bytes of one image file to its pixels in sRGB: how it is stored, turned, and what its colours mean."""
