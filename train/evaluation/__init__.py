"""Evaluation of the student during training: figures, answers, curves."""
