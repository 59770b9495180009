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
TABLE_BYTES = 4 * 2**30
"""Largest table that is read, in bytes, also unpacked: it is held in memory."""
TABLE_CELLS = 5_000_000
"""Cells that a table may have whatever its size in bytes is."""
TABLE_CELLS_A_BYTE = 50
"""Cells that a larger table may have for each of its bytes."""
TABLE_RATIO = 200
"""A compressed table may unpack to this many times its size, or to TABLE_SPARE."""
TABLE_SPARE = 64 * 2**20
"""Bytes to which a small compressed table may unpack whatever its ratio is: zeros pack to a thousandth."""
HEADING_CHARACTERS = 2**20
"""Longest first line of a table."""
SHEET_ROWS = 2**20
"""Rows of a spreadsheet, as many as a spreadsheet program has."""
XZ_MEMORY = 256 * 2**20
"""Memory that unpacking xz or LZMA may take, in bytes; ``xz -9`` takes 65 MiB."""

# Archives
ARCHIVE_RATIO = 200
"""An archive of up to 10 MB may unpack to this many times its own size, and ARCHIVE_SPARE."""
ARCHIVE_RATIO_LARGE = 20
"""A larger one to this many times its size, and to no less than one of 10 MB."""
ARCHIVE_SPARE = 64 * 2**20
"""Bytes to which a small archive may unpack whatever its ratio is; also what is left free on the disk."""
ARCHIVE_MEMBERS = 2_000_000
"""Members of an archive."""
ARCHIVE_MEMBER_BYTES = 2**30
"""Largest file in an archive."""
ARCHIVE_HEADER_BYTES = 2**20
"""Largest header of a member of a tar: its name and attributes, which are held in memory."""
ARCHIVE_PATH_CHARACTERS = 2_000
"""Longest path of a member of an archive."""
PACKED_RATIO = 2
"""Files in an archive that are compressed themselves may have this many times its size, and 1 MiB: they cannot be
compressed again, and what unpacks twice multiplies."""
FOLDER_DEPTH = 64
"""Folders within each other, on the disk and in an archive."""

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
MODEL_LAYERS = 1_000
"""Most layers that the configuration of a model in a folder may ask for."""
NECK_WIDTH = 65_536
"""Largest width of a neck."""
LORA_RANK = 4_096
"""Largest rank of a low-rank pair."""
ADAPTER_NAME = 100
"""Longest name of an adapter in a bank, in characters."""

# Requests to the server
REQUEST_ITEMS = 256
"""Most inputs of one request."""
REQUEST_ADAPTERS = 64
"""Most adapters that are asked about one input."""
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
REPLY_CHARACTERS = 500
"""Longest error message in an answer of the server, in characters."""
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
DRIFTED_BYTES = 100_000_000
"""Most bytes of inputs that a server keeps of those that look unlike what its adapters learned from."""

# Messages
MESSAGE = 2_000
"""Longest message of an error, in characters; what is longer loses its middle."""
VALUE_CHARACTERS = 200
"""How much a message shows of one value that was given, in characters."""
