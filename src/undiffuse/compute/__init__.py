"""How the arithmetic is done on the machine at hand."""
