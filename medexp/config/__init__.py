"""What all configurations share, and the one way to make one."""
