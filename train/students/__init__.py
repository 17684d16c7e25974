"""What is trained: the teacher with parts left out, or a checkpoint; with adapters or without."""
