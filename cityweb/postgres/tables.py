"""The tables: columns and constraints, which the tests compare with what the migrations make."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Computed, DateTime, Identity, Index, SmallInteger, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cityweb.city import NAME_MAX, POPULATION_MAX


class Base(DeclarativeBase):
    """The tables of cityweb."""


class City(Base):
    """A city as a visitor added it.

    `names.key` makes `name_key`, which says which names are one; `names.bare` makes `name_bare`, the same without
    accents, which finds the near misses; PostgreSQL makes `words` of that, which are what a search finds.
    """

    __tablename__ = "cities"
    __table_args__ = (
        CheckConstraint(f"char_length(name) BETWEEN 1 AND {NAME_MAX}", name="cities_name_length"),
        CheckConstraint(f"population BETWEEN 0 AND {POPULATION_MAX}", name="cities_population_range"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    # "C": an update of the system's locales must never change which names are equal.
    name_key: Mapped[str] = mapped_column(Text(collation="C"), unique=True)
    name_bare: Mapped[str] = mapped_column(Text(collation="C"))
    population: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    words: Mapped[str] = mapped_column(Text(collation="C"), Computed("search_words(name_bare)", persisted=True))


Index("cities_bare", City.name_bare)
Index("cities_board", City.population, -City.id, postgresql_include=["id", "words"])
Index(
    "cities_words",
    func.array_to_tsvector(func.string_to_array(func.btrim(City.words), " ")),
    postgresql_using="gin",
    postgresql_with={"fastupdate": "off"},
)


class Tally(Base):
    """How many cities there are in a bucket of populations (`population >> shift`); triggers count them."""

    __tablename__ = "tally"

    shift: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    bucket: Mapped[int] = mapped_column(primary_key=True)
    cities: Mapped[int]


class TallyChange(Base):
    """What is not yet folded into the tally: so many cities of this population more, or fewer."""

    __tablename__ = "tally_changes"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    population: Mapped[int]
    cities: Mapped[int]


class Salt(Base):
    """The one secret that addresses are hashed with."""

    __tablename__ = "salts"

    salt: Mapped[bytes] = mapped_column(primary_key=True)


class Adds(Base):
    """How far one address has used up what it may add: two clocks, which run ahead of now (see `rate_limit.py`)."""

    __tablename__ = "adds"
    __table_args__ = {"prefixes": ["UNLOGGED"]}  # noqa: RUF012 (SQLAlchemy's form)

    address: Mapped[bytes] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    hour: Mapped[datetime] = mapped_column(DateTime(timezone=True))
