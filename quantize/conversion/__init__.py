"""A Hugging Face checkpoint as a GGUF file of F32, F16 or BF16, not yet verified."""
