"""Dial 2, what must match across domains: none for now."""
