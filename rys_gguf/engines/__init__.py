"""Run llama.cpp and get its answers as values."""
