"""From a model and a layer map to bytes."""
