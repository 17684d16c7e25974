"""The last phase: training with the weights quantized as in a file."""
