"""Plot style and image grids of the studies' figures."""
