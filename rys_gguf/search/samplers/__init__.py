"""Search strategies: given the answers so far, they choose the next questions."""
