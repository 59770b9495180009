"""The assembled model (backbone, neck, head) and what its outputs mean: classification."""
