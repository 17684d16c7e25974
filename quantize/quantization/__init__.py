"""Which type each tensor gets: llama.cpp's file types, importance matrices, mixes for a budget."""
