"""Optuna studies over phases: sweeps, and recovery when a check fails."""
