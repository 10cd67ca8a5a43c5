from tests.mlflow_store import empty_database, server, store  # noqa: F401
