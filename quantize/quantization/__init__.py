"""The type of each tensor: llama.cpp's file types, importance matrices, mixes for a size."""
