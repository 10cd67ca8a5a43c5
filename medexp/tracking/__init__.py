"""MLflow runs: what a phase did, on what, with what, and how it ended.

Nothing is imported or set here: MLflow loads the project plug-in in this package on `import mlflow`, in other projects too.
"""
