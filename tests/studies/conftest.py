from tests.mlflow_store import empty_database, server, store  # noqa: F401
from tests.studies.postgres import postgres, postgres_server  # noqa: F401
from tests.studies.small_disk import small_disk  # noqa: F401
