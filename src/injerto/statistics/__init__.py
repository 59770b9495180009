"""Pure functions on arrays: resampling intervals, kernels, distances between samples, tests."""
