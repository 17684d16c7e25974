"""OpenAI's API over HTTP: wire types, routes, the door. Knows nothing of llama.cpp."""
