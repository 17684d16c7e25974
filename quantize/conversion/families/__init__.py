"""The architectures that can become GGUF: how each is laid out there, and what each refuses."""
