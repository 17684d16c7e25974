"""OpenAI's API over HTTP: middleware and routes."""
