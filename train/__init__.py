"""Conversations with log-probabilities → a trained student checkpoint in Hugging Face format."""
