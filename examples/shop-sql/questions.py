"""Makes the test questions: `python examples/shop-sql/questions.py` writes `references.jsonl`.

`questions.toml` has two kinds, neither of which occurs in training: templates, filled with cities,
products, customers and months that `draws.py` never uses, and questions as people type them. A
question is left out where its query returns nothing, the same as another one's, a lone 0 or 1, or
rows whose order is not determined.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from shop import CITIES, PATH, PAYMENTS, PRODUCTS, REASONS, STATUSES

HERE = Path(__file__).parent
QUESTIONS = tomllib.loads((HERE / "questions.toml").read_text(encoding="utf-8"))
SEED = 7
NUM_OF_A_TEMPLATE = 5
MONTHS = {2: "February", 4: "April", 7: "July", 9: "September", 11: "November"}


def slot_values() -> dict[str, list[str]]:
    """Return the values of the slots: none of the cities, products and customers of `draws.py`."""
    with closing(sqlite3.connect(PATH)) as connection:

        def column(query: str) -> list[str]:
            return [str(row[0]) for row in connection.execute(query)]

        held = ", ".join(f"'{name}'" for name in held_out_products())
        return {
            "city": [cities[2] for cities in CITIES.values()],
            "country": list(CITIES),
            "category": list(PRODUCTS),
            "status": list(STATUSES),
            "payment": list(PAYMENTS),
            "reason": list(REASONS),
            "product": column(
                f"SELECT name FROM products WHERE name IN ({held}) AND id IN "
                "(SELECT product_id FROM order_lines) AND id IN (SELECT product_id FROM reviews)"
            ),
            "returned": column(
                f"SELECT name FROM products WHERE name IN ({held}) AND id IN "
                "(SELECT product_id FROM returns)"
            ),
            "customer": column("SELECT name FROM customers WHERE id % 3 = 0"),
            "buyer": column(
                "SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id "
                "WHERE c.id % 3 = 0 GROUP BY c.id HAVING COUNT(*) > 2"
            ),
            "order": column(
                "SELECT order_id FROM order_lines GROUP BY order_id HAVING COUNT(*) > 1 "
                "AND order_id % 7 = 3"
            ),
            "word": ["table", "light", "rope", "bird", "box", "camping", "set"],
            "month": [f"{year}-{month:02}" for year in (2024, 2025) for month in MONTHS],
            "year": ["2024", "2025"],
            "price": ["35", "75", "90", "110", "150"],
            "small": ["25", "30", "45"],
            "stock": ["22", "37", "65", "70"],
            "top": ["3", "4", "6", "7"],
            "many": ["9", "11", "14"],
            "reviews": ["7", "8", "9"],
            "few": ["2", "3"],
            "rating": ["2", "3", "4"],
            "low": ["1", "2", "3"],
        }  # fmt: skip


def held_out_products() -> list[str]:
    """Return the products that only the test names: the first five of each category."""
    return [name for names in PRODUCTS.values() for name in names.split(", ")[:5]]


def templated(draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield questions with their queries, each phrasing of a template in turn."""
    values = slot_values()
    for template in QUESTIONS["templates"]:
        query, phrasings = template["query"], template["questions"]
        slots = sorted(set(re.findall(r"{(\w+)}", query)))
        seen: set[str] = set()
        for number in range(4 * NUM_OF_A_TEMPLATE):
            filled = {slot: draw.choice(values[slot]) for slot in slots}
            filled |= {"category_low": filled.get("category", "").lower()}
            if "month" in filled:
                year, month = filled["month"].split("-")
                filled["month_words"] = f"{MONTHS[int(month)]} {year}"
            sql = query.format(**filled)
            if sql not in seen:
                seen.add(sql)
                yield phrasings[number % len(phrasings)].format(**filled), sql


def why_not(query: str, results: dict[str, str]) -> str | None:
    """Return why a question with this query measures nothing; else remember its result."""
    with closing(sqlite3.connect(PATH)) as connection:
        rows = connection.execute(query).fetchall()
        if not rows or rows in ([(0,)], [(1,)], [(None,)], [(None, None)]):
            return "an empty or trivial result"
        order = re.search(r"ORDER BY (.+?)( LIMIT \d+.*)?$", query)
        for way in ("ASC", "DESC") if order else ():
            other = f"{query[: order.end(1)]}, 1 {way}{order[2] or ''}"
            if connection.execute(other).fetchall() != rows:
                return "an order that ties leave open"
    result = repr(sorted(map(repr, rows)))
    if result in results:
        return f"the same result as {results[result]}"
    results[result] = query
    return None


def main() -> None:
    """Write the questions, people's first."""
    results: dict[str, str] = {}
    kept = []
    for one in QUESTIONS["people"]:
        reason = why_not(one["query"], results)
        if reason is None:
            kept.append((one["question"], one["query"]))
        else:
            sys.stderr.write(f"left out: {one['question']}: {reason}\n")
    counts: Counter[str] = Counter()
    for question, query in templated(random.Random(SEED)):
        shape = re.sub(r"'[^']*'|\d+", "?", query)
        if counts[shape] < NUM_OF_A_TEMPLATE and why_not(query, results) is None:
            counts[shape] += 1
            kept.append((question, query))
    sys.stderr.write(f"{len(kept) - counts.total()} as people type them, ")
    sys.stderr.write(f"{counts.total()} of {len(counts)} templates\n")
    lines = (json.dumps({"prompt": q, "answer": a}, ensure_ascii=False) + "\n" for q, a in kept)
    (HERE / "references.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
