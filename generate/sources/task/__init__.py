"""Prompts of a task that the teacher writes: new inputs, or inputs for drawn answers."""
