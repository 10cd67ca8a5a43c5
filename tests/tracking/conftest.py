from tests.mlflow_store import empty_database, store  # noqa: F401
