"""A run is a folder: configuration, metrics, summary, checkpoints. No pickle anywhere."""
