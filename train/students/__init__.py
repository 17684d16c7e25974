"""The student: a pruned teacher or a checkpoint, with adapters or without."""
