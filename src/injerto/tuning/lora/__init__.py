"""Low-rank adaptation: layers that compute with W + scaling * B A, where they go, and their algebra."""
