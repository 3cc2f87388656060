"""How networks are computed on the hardware at hand: precision, threads, kernels, copies, graphs, compiling."""
