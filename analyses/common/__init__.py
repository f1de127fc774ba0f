"""What analyses share: recorded runs, comparisons between runs, results."""
