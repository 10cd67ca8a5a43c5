"""One module a phase: a recipe that reads from top to bottom."""
