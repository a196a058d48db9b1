"""`python -m rys_gguf`."""

from rys_gguf.cli import main

main(prog_name="rys-gguf")
