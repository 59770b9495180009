"""The one loop: step plan, examples, schedule, trainer, checkpoints."""
