"""Metrics of a task, one file a kind: each gives an answer a score from 0 to 1."""
