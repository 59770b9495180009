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
RECIPE_BYTES = 200_000
"""Largest file of settings (YAML) that is read, in bytes; also the characters of it with its aliases written out."""
RECIPE_NODES = 8_000
"""Values in a file of settings, with its aliases written out."""
RECIPE_VALUE = 10_000
"""Characters of one value in a file of settings."""
RECIPE_DEPTH = 16
"""Lists and mappings within each other in a file of settings."""
CARD_BYTES = 8_000_000
"""Largest adapter card that is read, in bytes."""

# Messages
MESSAGE_CHARACTERS = 4_000
"""Longest error message; of a longer one the middle is left out."""
VALUE_CHARACTERS = 200
"""How much a message shows of one value that was given."""
