"""A peer: FastAPI and the async ORM, a session and a query per request, like the service that cityweb grew from."""

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base class of the models."""


class City(Base):
    """A row of the table."""

    __tablename__ = "cities"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    population: Mapped[int]


class CityOut(BaseModel):
    """A city in a response."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    population: int


engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=5, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def session() -> AsyncIterator[AsyncSession]:
    """A session for each request."""
    async with sessions() as opened:
        yield opened


@app.get("/cities/biggest")
async def biggest(opened: Annotated[AsyncSession, Depends(session)]) -> list[CityOut]:
    """The 20 biggest cities."""
    rows = await opened.scalars(select(City).order_by(City.population.desc(), City.id).limit(20))
    return [CityOut.model_validate(city) for city in rows]
