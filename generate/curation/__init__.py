"""Named filters of prompts and conversations, with counts of what each drops."""
