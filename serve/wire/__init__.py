"""OpenAI's and llama.cpp's spellings, and nothing else: one file per family of endpoints."""
