"""Answers of student and teacher to the same prompts, from any OpenAI-compatible endpoint."""
