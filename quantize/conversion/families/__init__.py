"""The architectures that can become GGUF: their layout, and the settings each refuses."""
