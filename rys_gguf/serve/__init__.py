"""A variant at work for other programs: served without being written, and changed on request."""
