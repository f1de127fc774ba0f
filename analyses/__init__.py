"""What can be learnt from runs: each analysis takes runs and gives a tidy table and a figure."""
