"""Pages made of runs and sweeps: `slotkit report`. Installs as slotkit.reports."""
