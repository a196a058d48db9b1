"""From numbers to pages, cards and pictures."""
