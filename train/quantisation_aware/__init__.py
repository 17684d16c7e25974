"""The last phase: the student learns to be good with its weights quantised as a file's will be."""
