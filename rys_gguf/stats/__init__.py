"""Numbers from runs; knows no screen."""
