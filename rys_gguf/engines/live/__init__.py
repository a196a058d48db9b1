"""Load a model once in llama.cpp's C library, and ask any variant of it without a file."""
