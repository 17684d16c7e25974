"""Models in GGUF files: found by name or path, checked by hash, dequantized to checkpoints once."""
