"""Training data: stored conversations, checked, read from a mapped file, made into batches."""
