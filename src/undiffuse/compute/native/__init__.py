"""The project's own C++: sources that are compiled for the machine at hand when they are first wanted."""
