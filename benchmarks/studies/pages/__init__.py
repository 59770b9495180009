"""The tables of the pages, out of the committed results; `tables.py` puts them there."""
