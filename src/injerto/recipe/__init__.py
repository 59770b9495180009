"""The one typed, validated description of a run: its fields, the grammar of the two dials, the table of defaults."""
