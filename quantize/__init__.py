"""Student checkpoint → GGUF files that were loaded back and checked against it."""
