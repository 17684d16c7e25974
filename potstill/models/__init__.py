"""Models in GGUF files: found by name or path, checked by hash, made checkpoints once."""
