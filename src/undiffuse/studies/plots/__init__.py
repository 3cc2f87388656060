"""How the studies' figures look: one plot style, and image grids."""
