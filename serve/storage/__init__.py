"""Stored live traffic: answers, assignments, feedback, votes, judgments."""
