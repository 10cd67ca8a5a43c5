"""MLflow runs: what a phase did, on what, with what, and how it ended."""

import os

# Before mlflow is imported, which reads the first. The others bound how long a tracking server that went away holds a run up:
# a refused connection is given up after about 15 seconds, so a restart of the server is survived. What the user set stands.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}.items():
    os.environ.setdefault(_name, _value)
