"""Makes the shop's database: `python examples/shop-sql/shop.py` writes `shop.sqlite`.

Customers, products and orders of two years, drawn with a fixed seed; nothing in it is real.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("shop.sqlite")
SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT, country TEXT, joined_on TEXT);
CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, category_id INTEGER REFERENCES categories,
  price REAL, stock INTEGER);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers,
  ordered_on TEXT, status TEXT, payment TEXT);
CREATE TABLE order_lines (order_id INTEGER REFERENCES orders,
  product_id INTEGER REFERENCES products, quantity INTEGER, unit_price REAL);
CREATE TABLE returns (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders,
  product_id INTEGER REFERENCES products, returned_on TEXT, reason TEXT);
CREATE TABLE reviews (id INTEGER PRIMARY KEY, product_id INTEGER REFERENCES products,
  customer_id INTEGER REFERENCES customers, rating INTEGER, written_on TEXT);
"""
SEED = 20260101
FIRST_DAY, LAST_DAY = date(2024, 1, 1), date(2025, 12, 31)
NUM_CUSTOMERS, NUM_ORDERS, NUM_REVIEWS = 260, 1000, 420
RETURN_SHARE = 0.08

CITIES = {
    "Portugal": ["Porto", "Lisbon", "Braga"],
    "Spain": ["Seville", "Valencia", "Bilbao"],
    "France": ["Lyon", "Nantes", "Lille"],
    "Germany": ["Bremen", "Dresden", "Leipzig"],
    "Italy": ["Turin", "Bologna", "Verona"],
    "Netherlands": ["Utrecht", "Delft", "Leiden"],
    "Ireland": ["Cork", "Galway", "Dublin"],
    "Austria": ["Graz", "Linz", "Salzburg"],
}
FIRST_NAMES = """
Ada Amir Anna Beatriz Ben Carla Cem Chiara Daan Diego Elena Emil Eva Femke Finn Greta Hugo Ines
Ivan Jana Jonas Karim Lara Leo Lotte Luca Maeve Marta Mila Nadia Niall Noor Olga Oscar Paula
Pedro Priya Rosa Ruben Sara Sofia Stefan Tara Theo Tomas Vera Victor Yara Yusuf Zoe
"""
LAST_NAMES = """
Almeida Bakker Becker Bianchi Brennan Byrne Castro Conti Costa Dubois Duarte Egger Esposito
Fabre Ferrari Fischer Garcia Girard Gruber Haas Herrera Huber Jansen Keller Lambert Lopes
Marino Martin Meyer Moreau Moser Navarro Nolan Ortega Peeters Pichler Reis Ricci Romero Rossi
Roux Schmidt Silva Smit Sousa Torres Visser Vogel Walsh Weber
"""
PRODUCTS = {
    "Kitchen": "oak cutting board, cast iron pan, bread knife, espresso maker, glass teapot, "
    "pepper mill, salad bowl, kitchen scale, pasta machine, soup ladle, baking tray, "
    "spice rack",
    "Garden": "steel spade, garden hose, watering can, pruning shears, rain barrel, seed tray, "
    "wheelbarrow, leaf rake, bird feeder, plant pot, compost bin, hedge trimmer",
    "Lighting": "desk lamp, floor lamp, paper lantern, string lights, bedside lamp, ceiling "
    "light, wall sconce, camping lantern, night light, reading light, candle holder, "
    "solar light",
    "Furniture": "folding chair, coffee table, bookcase, shoe rack, bar stool, bedside table, "
    "rocking chair, coat stand, desk, footstool, wine rack, garden bench",
    "Toys": "wooden train, puzzle of Europe, stacking cups, toy kitchen, kite, marble run, "
    "rag doll, building blocks, spinning top, chess set, toy drum, hand puppet",
    "Sports": "yoga mat, skipping rope, tennis racket, football, dumbbell set, bike helmet, "
    "swim goggles, climbing rope, table tennis set, camping tent, hiking poles, "
    "running belt",
    "Office": "fountain pen, desk organizer, paper shredder, wall calendar, stapler, "
    "whiteboard, laptop stand, document box, label printer, notebook, desk pad, "
    "letter tray",
    "Pets": "dog bed, cat tree, bird cage, dog leash, fish tank, litter box, pet carrier, "
    "chew toy, feeding bowl, hamster wheel, grooming brush, scratching post",
}  # fmt: skip
PRICE_RANGES = {
    "Kitchen": (8, 120), "Garden": (6, 150), "Lighting": (9, 140), "Furniture": (25, 320),
    "Toys": (5, 80), "Sports": (7, 210), "Office": (4, 160), "Pets": (5, 130),
}  # fmt: skip
STATUSES = {"delivered": 62, "shipped": 14, "pending": 12, "cancelled": 12}
PAYMENTS = {"card": 55, "paypal": 27, "transfer": 12, "voucher": 6}
REASONS = {
    "damaged": 30, "wrong size": 22, "not as described": 20, "changed mind": 18, "arrived late": 10,
}  # fmt: skip
RATINGS = {1: 7, 2: 9, 3: 18, 4: 34, 5: 32}


def make_shop(path: Path) -> None:
    """Write the database to a new file."""
    draw = random.Random(SEED)
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA)
        for table, rows in _tables(draw).items():
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def _tables(draw: random.Random) -> dict[str, list[tuple[object, ...]]]:
    customers, products = _customers(draw), _products(draw)
    # A tenth of the customers and a few products never sell.
    buyers = draw.sample(customers, round(0.9 * len(customers)))
    sold = draw.sample(products, len(products) - 7)
    popularity = [draw.paretovariate(1.4) for _ in sold]
    loyalty = [draw.paretovariate(1.6) for _ in buyers]
    orders: list[tuple[object, ...]] = []
    lines: list[tuple[object, ...]] = []
    returns: list[tuple[object, ...]] = []
    for ordered_on in sorted(_day(draw, FIRST_DAY) for _ in range(NUM_ORDERS)):
        number = len(orders) + 1
        buyer = draw.choices(buyers, loyalty)[0]
        status, payment = _one_of(STATUSES, draw), _one_of(PAYMENTS, draw)
        orders.append((number, buyer[0], str(ordered_on), status, payment))
        bought = draw.choices(sold, popularity, k=draw.choice((1, 1, 2, 3, 4)))
        for product in dict.fromkeys(bought):
            price = round(float(str(product[3])) * draw.choice((1, 1, 1, 0.9, 0.8)), 2)
            lines.append((number, product[0], draw.choice((1, 1, 1, 2, 2, 3, 4, 6)), price))
            if status == "delivered" and draw.random() < RETURN_SHARE / 0.62:
                back = min(ordered_on + timedelta(draw.randint(4, 40)), LAST_DAY)
                returns.append(
                    (len(returns) + 1, number, product[0], str(back), _one_of(REASONS, draw))
                )
    reviews = [
        (number, draw.choice(products[:-5])[0], draw.choice(buyers)[0],
         _one_of(RATINGS, draw), str(_day(draw, FIRST_DAY)))
        for number in range(1, NUM_REVIEWS + 1)
    ]  # fmt: skip
    categories = list(enumerate(PRODUCTS, start=1))
    return {
        "customers": customers, "categories": categories, "products": products, "orders": orders,
        "order_lines": lines, "returns": returns, "reviews": reviews,
    }  # fmt: skip


def _customers(draw: random.Random) -> list[tuple[object, ...]]:
    first_names, last_names = FIRST_NAMES.split(), LAST_NAMES.split()
    names: dict[str, None] = {}
    while len(names) < NUM_CUSTOMERS:
        names[f"{draw.choice(first_names)} {draw.choice(last_names)}"] = None
    places = [(city, country) for country, cities in CITIES.items() for city in cities]
    weights = [draw.uniform(0.5, 2) for _ in places]
    rows = []
    for number, name in enumerate(names, start=1):
        city, country = draw.choices(places, weights)[0]
        rows.append((number, name, city, country, str(_day(draw, date(2022, 1, 1)))))
    return list(rows)


def _products(draw: random.Random) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for number, (category, names) in enumerate(PRODUCTS.items(), start=1):
        low, high = PRICE_RANGES[category]
        for name in names.split(", "):
            price = int(low * (high / low) ** draw.random()) + draw.choice((0.0, 0.5, 0.9, 0.95))
            stock = draw.choice((*[0] * 9, *range(3, 90)))
            rows.append((len(rows) + 1, name, number, price, stock))
    shuffled = draw.sample(rows, len(rows))
    return [(number, *row[1:]) for number, row in enumerate(shuffled, start=1)]


def _day(draw: random.Random, first: date) -> date:
    return first + timedelta(draw.randrange((LAST_DAY - first).days + 1))


def _one_of(weights: Mapping[Any, int], draw: random.Random) -> Any:  # noqa: ANN401
    return draw.choices(list(weights), list(weights.values()))[0]


if __name__ == "__main__":
    make_shop(PATH)
