"""How the work is done on this machine: the compute plan, fast inference, batches, the feature cache."""
