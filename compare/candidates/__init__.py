"""Who else could do the task: other models and settings, and what needs no teacher."""
