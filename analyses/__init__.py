"""What can be learnt from runs: each analysis takes runs and gives a tidy table, a figure and a verdict.

In a notebook: `found = slotkit.analyses.flips.analyze(["runs/a", "runs/b"])`, after importing the module;
then `found.table`, `found.figure()` and `found.summary`.
"""
