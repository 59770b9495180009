"""Bounds on everything that comes from outside, in one place; SECURITY.md shows each of them, and a test compares."""

# Pictures
PICTURE_BYTES = 512 * 2**20
"""Largest encoded picture that is read, in bytes."""
JPEG_WORK = 4_000_000_000
"""Pixels times scans of a JPEG: an empty scan of three bytes costs as much time as a full one."""
JPEG2000_TILES = 4096
"""Tiles of a JPEG 2000: memory is taken for each of them before its first pixel."""
ICONS = 64
"""Pictures in one icon file."""

# Texts and tables
TEXT_BYTES = 2**24
"""Largest file that is one text; a longer one is hardly an example."""

# What describes a run
RECIPE_BYTES = 1_000_000
"""Largest recipe (YAML) that is read, in bytes."""
CARD_BYTES = 8_000_000
"""Largest adapter card that is read, in bytes."""
