"""GGUF files → an endpoint that speaks OpenAI's API."""
