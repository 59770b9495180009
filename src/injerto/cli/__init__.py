"""The command line: parse, call the public API, print. ``main`` turns every error into one line and an exit code."""

from injerto.cli.main import main

__all__ = ["main"]
