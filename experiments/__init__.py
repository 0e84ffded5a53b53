"""Experiments that can be rerun by name."""
