"""The tables: columns and constraints, which the tests compare with the result of the migrations."""

from datetime import date, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Identity,
    Index,
    SmallInteger,
    Text,
    false,
    func,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cityweb.city import NAME_MAX, POPULATION_MAX


class Base(DeclarativeBase):
    """The tables of cityweb."""


class City(Base):
    """A stored city.

    `name_key` is the `names.key` of its name, the same for equal names; `name_bare` is its `names.bare`, without
    accents, for near misses; PostgreSQL generates `words` from `name_bare` for searches.
    """

    __tablename__ = "cities"
    __table_args__ = (
        CheckConstraint(f"char_length(name) BETWEEN 1 AND {NAME_MAX}", name="cities_name_length"),
        CheckConstraint(f"population BETWEEN 0 AND {POPULATION_MAX}", name="cities_population_range"),
        CheckConstraint("country = '' OR country ~ '^[A-Z]{2}$'", name="cities_country_code"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    # "C", because an update of the system's locales must not change which names are equal.
    name_key: Mapped[str] = mapped_column(Text(collation="C"), unique=True)
    name_bare: Mapped[str] = mapped_column(Text(collation="C"))
    population: Mapped[int]
    country: Mapped[str] = mapped_column(Text(collation="C"), server_default="")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    words: Mapped[str] = mapped_column(Text(collation="C"), Computed("search_words(name_bare)", persisted=True))


Index("cities_bare", City.name_bare)
Index("cities_board", City.population, -City.id, postgresql_include=["id", "words"])
Index(
    "cities_country",
    City.country,
    City.population,
    -City.id,
    postgresql_include=["id"],
    postgresql_where=City.country != "",
)
Index(
    "cities_words",
    func.array_to_tsvector(func.string_to_array(func.btrim(City.words), " ")),
    postgresql_using="gin",
    postgresql_with={"fastupdate": "off"},
)


class Tally(Base):
    """The number of cities in a bucket of populations (`population >> shift`), maintained by triggers.

    A row counts the cities of one country, or all cities if `country` is empty.
    """

    __tablename__ = "tally"

    shift: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    country: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True, server_default="")
    bucket: Mapped[int] = mapped_column(primary_key=True)
    cities: Mapped[int]


class TallyChange(Base):
    """A change that is not yet folded into the tally: the number of cities to add for a population, or to subtract."""

    __tablename__ = "tally_changes"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    country: Mapped[str] = mapped_column(Text(collation="C"), server_default="")
    population: Mapped[int]
    cities: Mapped[int]


class Salt(Base):
    """The secret with which client networks are hashed; the table has one row."""

    __tablename__ = "salts"

    salt: Mapped[bytes] = mapped_column(primary_key=True)


class Adds(Base):
    """The rate limit of a client network, by its hash: two theoretical arrival times (see `rate_limit.py`)."""

    __tablename__ = "adds"
    __table_args__ = {"prefixes": ["UNLOGGED"]}  # noqa: RUF012 (SQLAlchemy's form)

    address: Mapped[bytes] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    hour: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Change(Base):
    """A change of the cities; the log of changes is only appended to, and outlives the cities.

    For one city, the order of the ids is the order of its changes. Values that do not change are null, and so are the
    old values of an addition and the new ones of a removal. `network` is a hash of the client network.
    """

    __tablename__ = "changes"
    __table_args__ = (CheckConstraint("kind IN ('add', 'correct', 'remove', 'restore', 'load')", name="changes_kind"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
    kind: Mapped[str] = mapped_column(Text)
    city_id: Mapped[int | None]
    old_name: Mapped[str | None] = mapped_column(Text)
    old_population: Mapped[int | None]
    old_country: Mapped[str | None] = mapped_column(Text)
    new_name: Mapped[str | None] = mapped_column(Text)
    new_population: Mapped[int | None]
    new_country: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    cities: Mapped[int | None]
    reverts: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[str | None] = mapped_column(Text)
    operator: Mapped[bool] = mapped_column(server_default=false())
    network: Mapped[bytes | None]


Index("changes_city", Change.city_id, Change.id)
Index("changes_reverts", Change.reverts, unique=True, postgresql_where=Change.reverts.is_not(None))


class NetworkKey(Base):
    """The key with which client networks are hashed on a day, in UTC by the clock of the database."""

    __tablename__ = "network_keys"

    day: Mapped[date] = mapped_column(primary_key=True)
    key: Mapped[bytes]


class Block(Base):
    """A client network that may change nothing, or a name that may not be stored; for ever if `until` is null."""

    __tablename__ = "blocks"
    __table_args__ = (CheckConstraint("num_nonnulls(name_key, network) = 1", name="blocks_one"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name_key: Mapped[str | None] = mapped_column(Text(collation="C"), unique=True)
    network: Mapped[bytes | None]
    until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
