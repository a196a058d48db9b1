"""`python -m rys_gguf`."""

from rys_gguf.cli.model import main

main(prog_name="rys-gguf")
