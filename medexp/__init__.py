"""medexp: adapt medical-imaging foundation models, with checks, tracked and registered in MLflow."""

__version__ = "0.1.0"
