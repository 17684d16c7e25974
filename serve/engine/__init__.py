"""GGUF models and continuous batching over them: tokens in, tokens out."""
