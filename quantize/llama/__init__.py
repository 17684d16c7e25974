"""llama.cpp's library, in processes of its own: a broken file takes nobody else along."""
