"""Random inputs against all that reads what others wrote: coverage-guided by atheris, over HTTP by schemathesis."""
