"""Who asks over HTTP: a recorded graph behind a bounded queue, with a face of its own and an OpenAI-compatible one."""
