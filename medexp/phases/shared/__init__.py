"""What recipes have in common."""
