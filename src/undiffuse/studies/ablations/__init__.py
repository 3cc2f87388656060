"""Studies that train several models that differ in one choice."""
