"""The last phase: the student learns to be good with its weights quantized as a file's will be."""
