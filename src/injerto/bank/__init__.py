"""Many adapters on one base model in memory: read once, mixed freely in a batch, each with its own labels.

Answers are those of one adapter at a time.
"""
