"""The flight recorder: what happened at every step, and the weights of any step from it."""
