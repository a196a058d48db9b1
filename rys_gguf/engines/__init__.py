"""llama.cpp: running it, and its answers as values."""
