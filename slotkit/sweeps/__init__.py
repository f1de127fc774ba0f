"""Sweeps: many runs in one folder, planned, trained by several workers; whatever stops one, it goes on."""
