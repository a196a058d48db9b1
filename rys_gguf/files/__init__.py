"""Bytes on disk: files that are safe to read from and to write to."""
