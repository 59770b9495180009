"""Dial 1, what may move: head, last:K, full; the norm policy that says what stays still."""
