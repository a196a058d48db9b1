"""What to ask next, from what was answered so far."""
