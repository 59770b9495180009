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

# --- requests to the server -------------------------------------------------------------------------------------------

REQUEST_BYTES = 20_000_000
"""Largest body of a request, in bytes."""
REQUEST_PIXELS = 50_000_000
"""Most pixels of a request's pictures together, by their headers."""
REQUEST_QUESTIONS = 1_024
"""Most questions of a request: inputs times the adapters that each of them names."""
TEXT_CHARACTERS = 50_000
"""Longest text that the server reads, in characters."""
JSON_STRINGS = 20_000
"""Most strings (names of fields, too) in a request's JSON."""
JSON_REST = 500_000
"""Most bytes of a request's JSON outside its strings: numbers, brackets, spaces."""
ANSWER_VALUES = 1_000_000
"""Most probabilities in one answer: questions times the classes of their adapters."""
ANSWER_SECONDS = 30
"""Seconds after which a request that has not been answered is given up."""
MESSAGE_CHARACTERS = 500
"""Longest error message in an answer, in characters."""
BODIES_BYTES = 200_000_000
"""Most bytes of bodies that are held at the same time; one address may hold half of them."""
BODY_SECONDS = 120
"""Longest time for which a body is waited for, in seconds."""
BODY_RATE = 50_000
"""Slowest rate of a body or of the reading of an answer, in bytes a second, after the grace of HEAD_SECONDS."""
HEAD_BYTES = 16_384
"""Longest request line and headers together, in bytes."""
HEAD_SECONDS = 10
"""Longest time until a request's headers are there, and longest pause within a body, in seconds."""
UNREAD_SECONDS = 20
"""Longest time for which the rest of an answer waits to be read, in seconds; more at BODY_RATE where it is long."""
CONNECTIONS = 512
"""Most connections at the same time; one address may have half of them. Fewer where fewer files may be open."""
ADMIN_TOKEN_CHARACTERS = 16
"""Shortest management token that is taken from the environment, in characters."""
