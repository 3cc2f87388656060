"""Reading properties back from images: what was drawn, as numbers. Needs numpy and scipy, not torch."""
