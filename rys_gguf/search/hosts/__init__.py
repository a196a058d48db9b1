"""How a candidate becomes an engine."""
