"""GGUF files behind an endpoint with OpenAI's API."""
