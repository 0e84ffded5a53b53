"""Hostile documents, questions and bodies against every door of JADE: `python -m benchmarks.injection`."""
