"""The command line: one file per command; a composition root that nobody imports."""
