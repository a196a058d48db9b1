"""The generated families of items."""
