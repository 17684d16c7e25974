"""llama.cpp as every stage uses it: files are loaded, tokenized and evaluated in one way.

Only the stages' packages import it, not the rest of the core, because it imports `llama_cpp`.
llama.cpp ends the whole process on broken invariants (GGML_ABORT), so a file that is not verified
yet is opened in a child process.
"""
