"""Pure functions on arrays: resampling intervals now; kernels, distances and tests as they come."""
