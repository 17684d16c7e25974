"""A GGUF file against its checkpoint: tokens, template, stops, distributions."""
