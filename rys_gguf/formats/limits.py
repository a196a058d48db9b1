"""Numbers that llama.cpp compiles in: files beyond them are refused or abort when they load."""

# LLAMA_MAX_LAYERS in llama.cpp (src/llama-hparams.h): the loader asserts block_count <= 512.
MAX_LAYERS = 512
# GGML_MAX_NAME in ggml.h is 64, with its terminating NUL.
MAX_NAME_BYTES = 63
# TENSOR_ALIGNMENT in ggml/src/ggml-impl.h: a file is mapped, and ggml_backend_cpu_buffer_from_ptr
# asserts that the first tensor it takes from there starts at a multiple of 32. GGUF itself allows
# any power of two; of a file with a smaller one, llama.cpp loads what happens to start there.
MIN_ALIGNMENT = 32
