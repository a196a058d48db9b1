"""Check a variant: verify, prove, smoke."""
