"""Adapters behind HTTP: banks by base, batches across requests and adapters, limits, a page to try them.

Needs ``pip install "injerto[serve]"``.
"""
