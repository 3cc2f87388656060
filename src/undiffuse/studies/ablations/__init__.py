"""Studies that train several models which differ in one choice."""
