"""Dial 2, what must match across domains: terms of the loss, each about thirty lines."""
