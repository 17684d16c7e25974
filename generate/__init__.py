"""prompts → teacher conversations with log-probabilities. The only room that imports vLLM."""
