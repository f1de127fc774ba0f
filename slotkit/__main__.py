"""`python -m slotkit` is the slotkit command."""

from slotkit.cli.main import main

main()
