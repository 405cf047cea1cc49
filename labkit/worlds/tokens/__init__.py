"""Worlds of text, small enough that all that can be written is known."""
