"""The demo of phase7, small: few patients, two epochs, a handful of samples. It passes no bar, which is no matter here."""

SMALL = {
    "phantoms.patients": 28,
    "training.epochs": 2,
    "training.validate_every": 1,
    "training.warmup_epochs": 1,
    "ablation.seeds": 2,
    "ablation.epochs": 2,
    "sampling.samples": 6,
    "sampling.seeds": 1,
    "sampling.steps": "[1,2]",
    "sampling.shown": 2,
    "bootstrap_samples": 200,
    "data.jobs": 1,
}
LOW = {"target.non_empty": 0, "target.contrast": 0}
"""Bars that any adapter passes; own masks are held against others' all the same."""
