"""Numbers that llama.cpp compiles in: files beyond them are refused or abort when they load."""

# LLAMA_MAX_LAYERS in llama.cpp (src/llama-hparams.h): the loader asserts block_count <= 512.
MAX_LAYERS = 512
# GGML_MAX_NAME in ggml.h is 64, with its terminating NUL.
MAX_NAME_BYTES = 63
