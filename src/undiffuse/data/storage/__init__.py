"""How the items of a set are held: in memory, mapped from the cache on disk, on the device, or still encoded."""
