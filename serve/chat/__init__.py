"""Chat messages and a model's template: prompts in, and what an answer's text means. No HTTP."""
