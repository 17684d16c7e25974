"""llama.cpp as every room uses it: files are loaded, tokenized and evaluated in one way.

Rooms import it when they need it, the rest of the core never: it imports `llama_cpp`. llama.cpp
ends the whole process on broken invariants (GGML_ABORT), so a file that was not verified yet is
opened in a child process.
"""
