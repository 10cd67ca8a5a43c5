"""What befalls a PostgreSQL."""

import contextlib
from collections.abc import Iterator

import sqlalchemy


@contextlib.contextmanager
def closed(database: str) -> Iterator[None]:
    """The database turns all away, those who are connected too."""
    url = sqlalchemy.make_url(database).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")

    def do(statement: str, **values: str | None) -> None:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(statement), values)

    do(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
    do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name", name=url.database)
    try:
        yield
    finally:
        do(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")
        engine.dispose()
