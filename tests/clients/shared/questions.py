# SPDX-License-Identifier: Apache-2.0
"""What the clients' scripts ask for: an object of a schema, a call of a tool.

The schema has what their users' have: an enumeration, bounds, a list, another object by reference
and with a description of its own, something that may be missing. Lengths are bounded, since so
small a model may not come to an end by itself.
"""

from enum import Enum
from typing import Optional

from pydantic import BaseModel, Field


class Genre(str, Enum):
    NOVEL = "novel"
    DRAMA = "drama"
    POETRY = "poetry"


class Chapter(BaseModel):
    title: str = Field(max_length=40)
    pages: int = Field(ge=1, le=900)


class Book(BaseModel):
    """A book as a library lists it."""

    title: str = Field(description="As it is on the cover", min_length=1, max_length=40)
    subtitle: Optional[str] = Field(None, max_length=40)
    genre: Genre
    year: int = Field(ge=1000, le=2100)
    longest: Chapter = Field(description="The chapter with the most pages")
    others: list[Chapter] = Field(min_length=1, max_length=2)


class Person(BaseModel):
    """What the model keeps to by itself, where a client only tells it the schema."""

    name: str
    age: int


BOOK = "Describe the book Moby-Dick in JSON."
PERSON = 'Who is Maria? Maria is 34 years old. Answer like {"name": "Otto", "age": 51}.'
WEATHER = "What is the weather in Oslo?"
DEGREES = "-7"


def check_book(book):
    """The book again; its own model has checked it, now or before."""
    book = Book.model_validate(book.model_dump() if isinstance(book, BaseModel) else book)
    assert book.genre in Genre and book.others, book
    return book


def told(book):
    return f"{book.title!r}, {book.genre.value}, {book.year}"


def check_person(person):
    assert isinstance(person, Person) and person.name, person
    return person


class Thermometer:
    """A tool, and the cities that it was asked for."""

    def __init__(self):
        self.cities = []

    def read(self, city):
        assert isinstance(city, str) and city, city
        self.cities.append(city)
        return f"It is {DEGREES} degrees in {city}."
