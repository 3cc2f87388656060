"""Storage of the items of a data set: in memory, memory-mapped from the disk cache, on the device, or encoded."""
