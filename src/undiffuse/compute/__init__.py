"""Hardware-specific execution of networks: precision, threads, kernels, weight copies, CUDA graphs, compilation."""
