"""The JSON of OpenAI's, Anthropic's and llama.cpp's APIs: one file per family of endpoints."""
