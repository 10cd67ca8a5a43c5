"""Losses and the one fit loop that all phases train with."""
