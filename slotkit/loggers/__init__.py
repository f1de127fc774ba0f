"""Loggers: where the numbers of a training go beside its run folder (TensorBoard, W&B, MLflow)."""
