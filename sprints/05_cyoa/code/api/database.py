"""The database under the store: opening, migrations, transactions, and requests that must not be served twice."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from shared.errors import UserError, line

from .errors import ApiError
from .tables import Base, Idempotency

Key = tuple[str, str]  # an Idempotency-Key and the fingerprint of the request that came with it


class AlreadyMadeError(Exception):
    """The same request was served meanwhile; the argument is the id of what it made."""


class Database:
    def __init__(self, url: str, owner: str = "here"):
        """`url` as SQLAlchemy writes it, `owner` names this server among those on one database. Raises UserError."""
        self.owner = owner
        try:
            parsed = make_url(url)
            if sqlite := parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
                Path(parsed.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(parsed, pool_pre_ping=not sqlite)
            if parsed.get_backend_name() == "sqlite":
                event.listen(self.engine, "connect", _pragmas)
            self._session = sessionmaker(self.engine, expire_on_commit=False)
            self.migrate()
        except (ArgumentError, NoSuchModuleError, ImportError, OperationalError) as error:
            raise UserError(
                f"the database cannot be opened ({line(error)}): give --database sqlite:///FILE or postgresql://..."
            ) from None

    def migrate(self) -> None:
        """Bring the tables to the newest version."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # of servers that start together one migrates, the others wait
                connection.execute(text("SELECT pg_advisory_xact_lock(5)"))
            config.attributes |= {"connection": connection, "metadata": Base.metadata}
            command.upgrade(config, "head")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._session.begin() as session:
            yield session

    def recall(self, key: Key | None) -> str | None:
        """The id of what the first request with this key made. Raises ApiError 422 when that was another request."""
        if key is None:
            return None
        with self.session() as session:
            known = session.get(Idempotency, _digest(key[0]))
        if known and known.fingerprint != key[1]:
            raise ApiError(422, "this Idempotency-Key came with another request")
        return known.made if known else None

    @contextmanager
    def once(self, key: Key | None) -> Iterator[Session]:
        """A transaction that another with the same key, at the same time, makes fail with AlreadyMadeError."""
        try:
            with self.session() as session:
                yield session
        except IntegrityError:
            if made := self.recall(key):
                raise AlreadyMadeError(made) from None
            raise

    @staticmethod
    def remember(session: Session, key: Key | None, made: str) -> None:
        """In the transaction that makes something: which request made it."""
        if key:
            session.add(Idempotency(key=_digest(key[0]), fingerprint=key[1], made=made))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _pragmas(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=WAL", "busy_timeout=5000", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
