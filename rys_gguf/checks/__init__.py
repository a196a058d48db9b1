"""Whether a variant is right: verify, prove, smoke."""
