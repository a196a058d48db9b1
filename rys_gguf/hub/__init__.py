"""Models by their names: files in the caches of other programs, and headers on the Hub."""
