"""prompts → teacher conversations with log-probabilities. The only package that imports vLLM."""
