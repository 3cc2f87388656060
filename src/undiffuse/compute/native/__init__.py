"""C++ sources of this package, compiled for the current processor at first use."""
