"""``python -m injerto``."""

from injerto.cli.main import main

main()
