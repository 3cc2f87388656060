"""The project's own C++: sources that are compiled for the processor at hand when they are first needed."""
