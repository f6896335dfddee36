"""SQLAlchemy models over `schema.sql`, which is the one source of their shape."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Identity, LargeBinary, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """Instants are aware datetimes; a `str` is a PostgreSQL text."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        str: Text(),
    }


class Branch(Base):
    """A branch and its mirror state, which is computed from its attempts."""

    __tablename__ = "branch"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    unique_name: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str | None]
    last_mirror_attempt: Mapped[datetime | None]
    last_mirrored: Mapped[datetime | None]
    last_mirrored_id: Mapped[str | None]
    mirror_failures: Mapped[int] = mapped_column(server_default="0")
    mirror_status_message: Mapped[str | None]


class MirrorAttempt(Base):
    """One attempt to mirror one branch; `outcome` is None while it runs."""

    __tablename__ = "mirror_attempt"

    branch_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    started_at: Mapped[datetime] = mapped_column(primary_key=True)
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    revision_id: Mapped[str | None]
    failure_reason: Mapped[str | None]
    source_id: Mapped[int | None] = mapped_column(BigInteger)


class ScriptActivity(Base):
    """One run of a script that ended normally."""

    __tablename__ = "script_activity"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str]
    hostname: Mapped[str]
    date_started: Mapped[datetime]
    date_completed: Mapped[datetime]


class DeadLetter(Base):
    """A message that could not be applied; `reason` is a `mirrorfeed.contract.reasons.Reason`.

    If an operator has edited `body`, `original_body` is what was delivered, else None.
    """

    __tablename__ = "dead_letter"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    reason: Mapped[str]
    detail: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    original_body: Mapped[bytes | None] = mapped_column(LargeBinary)
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    source: Mapped[str | None]
    event_id: Mapped[str | None]
    type: Mapped[str | None]
    branch_id: Mapped[int | None] = mapped_column(BigInteger)
    first_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default="1")
    state: Mapped[str] = mapped_column(server_default="dead")
    resolved_at: Mapped[datetime | None]
    note: Mapped[str | None]


def get_last_activity(session: Session, name: str) -> ScriptActivity | None:
    """The run of the script `name` that started last, on any host; None if it never ran."""
    return session.scalars(
        select(ScriptActivity)
        .where(ScriptActivity.name == name)
        .order_by(ScriptActivity.date_started.desc(), ScriptActivity.date_completed.desc())
        .limit(1)
    ).first()
