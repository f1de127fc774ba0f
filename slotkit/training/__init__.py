"""Training: one loop for slot machines and learned weights, schedules, evaluation, experiments."""
