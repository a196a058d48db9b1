"""What is in a file: GGUF headers, tensor tables, shards. Knows no rule."""
