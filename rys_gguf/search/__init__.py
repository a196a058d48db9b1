"""Find the window: a resumable sweep over candidates, and what it shows."""
