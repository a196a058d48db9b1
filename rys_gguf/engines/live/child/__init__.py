"""The live engine's child process; it imports nothing of the package."""
