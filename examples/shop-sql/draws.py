"""Draws queries of the shop's database, each with what it asks for in plain words.

`query` is the `draw` of the source in `sql.toml`: the teacher puts the words into a question as a
colleague types it, and the query is its known answer. Of the cities, products, customers, months
and limits, none of the test questions' is drawn.
"""

from __future__ import annotations

import random
import re
import sqlite3
import tomllib
from contextlib import closing
from functools import cache
from pathlib import Path

from shop import CITIES, PATH, PAYMENTS, PRODUCTS, REASONS, STATUSES

MOST_ROWS = 60
"""Nobody asks for a longer list."""
SAME = re.compile(r"IN \('(.+?)', '\1'\)")
SLOT = re.compile(r"{([a-z_]+)(\d?)}")
MONTHS = {1: "January", 3: "March", 5: "May", 6: "June", 8: "August", 10: "October", 12: "December"}

TEXTS = tomllib.loads(Path(__file__).with_name("patterns.toml").read_text(encoding="utf-8"))
ALIASES = {"c": "customers", "p": "products", "o": "orders", "r": "returns", "v": "reviews"}


def query(draw: random.Random) -> tuple[str, str, dict[str, str]]:
    """Return a query that has a result, what it asks for, and the values that a question names."""
    while True:
        said: dict[str, str] = {}
        sql, words = _filled(draw.choice(TEXTS["patterns"]), draw, said)
        sql = re.sub(r"'(\d{4}-\d\d)-(\d)'", r"'\1-0\2'", sql)
        for alias, table in ALIASES.items():
            if f"{table} {alias}" not in sql:
                sql = re.sub(rf"\b{alias}\.", "", sql)
        if not SAME.search(sql) and _has_result(sql):
            return sql, words, said


def _filled(pattern: list[str], draw: random.Random, said: dict[str, str]) -> tuple[str, str]:
    """Fill the slots of a query and of its words with the same draws, and note these values."""
    words, sql = pattern
    columns: dict[str, str] = {}
    for name, number in dict.fromkeys(SLOT.findall(sql)):
        said_here: dict[str, str] = {}
        filled = _slot(name, draw, said_here)
        while number and filled[0].split()[0] == columns.get(name):
            said_here = {}
            filled = _slot(name, draw, said_here)
        columns[name] = filled[0].split()[0]
        for key, value in said_here.items():
            said[f"another {key}" if key in said else key] = value
        sql = sql.replace(f"{{{name}{number}}}", filled[0])
        words = words.replace(f"{{{name}{number}}}", filled[1])
    return sql, words


def _slot(name: str, draw: random.Random, said: dict[str, str]) -> tuple[str, str]:
    if name in TEXTS["conditions"]:
        return _filled(draw.choice(TEXTS["conditions"][name]), draw, said)
    if name == "month":
        year, month = draw.choice((2024, 2025)), draw.choice(list(MONTHS))
        said[name] = f"{MONTHS[month]} {year}"
        return f"{year}-{month:02}", said[name]
    if name == "table_p":
        return draw.choice([("order_lines", "that were never sold"),
                            ("returns", "that were never returned"),
                            ("reviews", "that nobody has reviewed")])  # fmt: skip
    value = draw.choice(_values()[name])
    said[name] = {"Pets": "pet", "Toys": "toy"}.get(
        value, value.lower() if name == "category" else value
    )
    return value, said[name]


@cache
def _values() -> dict[str, list[str]]:
    """Return the values of the slots; none of the test's cities, products, customers, limits."""
    with closing(sqlite3.connect(PATH)) as connection:
        customers = [
            row[0]
            for row in connection.execute(
                "SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id "
                "WHERE c.id % 3 > 0 GROUP BY c.id HAVING COUNT(*) > 1 ORDER BY c.id"
            )
        ]
    return {
        "city": [cities[0] for cities in CITIES.values()],
        "other_city": [cities[1] for cities in CITIES.values()],
        "country": list(CITIES),
        "category": list(PRODUCTS),
        "product": [one for names in PRODUCTS.values() for one in names.split(", ")[5:]],
        "customer": customers,
        "first_name": sorted({name.split()[0] for name in customers}),
        "status": list(STATUSES),
        "payment": list(PAYMENTS),
        "other_payment": list(PAYMENTS),
        "reason": list(REASONS),
        "rating": ["2", "3", "4", "5"],
        "mean": ["3.5", "3.8", "4", "4.2", "4.5"],
        "year": ["2024", "2025"],
        "day": ["5", "10", "12", "20"],
        "price": ["12", "15", "20", "25", "30", "40", "50"],
        "higher_price": ["60", "70", "80", "100", "120"],
        "stock": ["5", "10", "20", "50", "60", "80"],
        "top": ["2", "5", "8", "10"],
        "count": ["8", "10", "12"],
        "few": ["2", "3", "4", "5", "6"],
        "units": ["6", "8", "10"],
        "amount": ["200", "300", "500", "750", "1000"],
        "order": [str(number) for number in range(1, 1000) if number % 7 != 3],
        "word": ["lamp", "garden", "stand", "bed", "rack", "dog", "desk", "pan", "bowl", "toy"],
    }


def _has_result(sql: str) -> bool:
    with closing(sqlite3.connect(PATH)) as connection:
        rows = connection.execute(sql).fetchall()
    return 0 < len(rows) <= MOST_ROWS and rows not in ([(None,)], [(0,)])


def unasked(text: str, sql: str | None) -> str | None:
    """Return what a query does and a question does not ask for, by its words; None if it asks."""
    for part, words in TEXTS["words"]:
        if sql and re.search(part, sql) and not re.search(rf"\b(?:{words})", text, re.IGNORECASE):
            return f"no word for {part}"
    return None
