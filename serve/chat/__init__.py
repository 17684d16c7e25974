"""Chat templates: messages to prompts, and an answer's text to tool calls."""
