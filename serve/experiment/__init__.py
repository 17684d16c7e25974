"""Experiments and cascades over served models: shadows, feedback, votes, results."""
