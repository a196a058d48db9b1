"""What a sweep measured, as values and as files."""
