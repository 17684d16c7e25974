"""Conversations with log-probabilities → a trained student checkpoint in Hugging Face format."""

import os

# On a CPU, oneDNN keeps what it compiles for each shape of a product, 1,024 of them by default, and
# batches have many lengths: a student of 0.5B grew from 10 to 16 GB. Compiling again is cheap.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
