"""The prompts of a run: collected, filtered, split."""
