"""Masks: which connections of a network are there, and what their graphs look like."""
