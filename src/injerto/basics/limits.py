"""Bounds on everything that comes from outside, in one place; SECURITY.md shows each of them, and a test compares."""

RECIPE_BYTES = 1_000_000
"""Largest recipe (YAML) that is read, in bytes."""
CARD_BYTES = 8_000_000
"""Largest adapter card that is read, in bytes."""
CONFIG_BYTES = 4_000_000
"""Largest ``adapter_config.json`` that is read, in bytes."""
HEADER_BYTES = 4_000_000
"""Largest header of a safetensors file, in bytes: names, types and shapes of its tensors."""
SKETCH_BYTES = 1_000_000
"""Largest drift sketch that is read, in bytes."""
HEAD_NUMBERS = 250_000_000
"""Most numbers in neck and head of an adapter (1 GB): labels times width, compared before memory is taken."""
DIMENSIONS = 16
"""Most dimensions of a tensor."""
PICTURE_SIDE = 2048
"""Largest side in pixels of the pictures that a model is given, by a recipe or by an adapter's card."""
TEXT_TOKENS = 131_072
"""Longest text in tokens that a recipe or an adapter's card may ask for."""
JSON_DEPTH = 64
"""Deepest nesting of a JSON file."""
JSON_NODES = 1_000_000
"""Most values in a JSON file."""
PATTERNS = 256
"""Most patterns in an adapter's configuration that are more than a layer's name: regular expressions."""
MESSAGE = 2_000
"""Longest message of an error, in characters; what is longer loses its middle."""
