"""Bounds on everything that comes from outside, in one place; SECURITY.md shows each of them, and a test compares."""

RECIPE_BYTES = 1_000_000
"""Largest recipe (YAML) that is read, in bytes."""
CARD_BYTES = 8_000_000
"""Largest adapter card that is read, in bytes."""
