"""Judging networks: metrics per case, features of frozen encoders, probes on them, and intervals by patient."""
