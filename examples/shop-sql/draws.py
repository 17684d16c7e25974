"""Draws queries of the shop's database, each with what it asks for in plain words.

`query` is the `draw` of the source in `sql.toml`: the teacher puts the words into a question as a
colleague types it, and the query is its known answer. Of the cities, products, customers, months
and limits, none of the test questions' is drawn.

A pattern is a query and its words. A slot is a value, or a condition on the rows of a table with
its words; `{orders1}` and `{orders2}` are two conditions on different columns.
"""

from __future__ import annotations

import random
import re
import sqlite3
from contextlib import closing
from functools import cache

from shop import CITIES, PATH, PAYMENTS, PRODUCTS, REASONS, STATUSES

MOST_ROWS = 60
"""Nobody asks for a longer list."""
SAME = re.compile(r"IN \('(.+?)', '\1'\)")
SLOT = re.compile(r"{([a-z_]+)(\d?)}")
MONTHS = {1: "January", 3: "March", 5: "May", 6: "June", 8: "August", 10: "October", 12: "December"}

LINES = "FROM order_lines l JOIN orders o ON o.id = l.order_id"
LINES_P = "FROM order_lines l JOIN products p ON p.id = l.product_id"
LINES_G = f"{LINES_P} JOIN categories g ON g.id = p.category_id"
LINES_C = f"{LINES} JOIN customers c ON c.id = o.customer_id"
LINES_OP = f"{LINES} JOIN products p ON p.id = l.product_id"
LINES_OG = f"{LINES_OP} JOIN categories g ON g.id = p.category_id"
LINES_CP = f"{LINES_C} JOIN products p ON p.id = l.product_id"
LINES_CG = f"{LINES_CP} JOIN categories g ON g.id = p.category_id"
ORDERS_C = "FROM orders o JOIN customers c ON c.id = o.customer_id"
PRODUCTS_G = "FROM products p JOIN categories g ON g.id = p.category_id"
RETURNS_P = "FROM returns r JOIN products p ON p.id = r.product_id"
RETURNS_G = f"{RETURNS_P} JOIN categories g ON g.id = p.category_id"
RETURNS_C = "FROM returns r JOIN orders o ON o.id = r.order_id JOIN customers c ON c.id = o.customer_id"
REVIEWS_P = "FROM reviews v JOIN products p ON p.id = v.product_id"
REVIEWS_G = f"{REVIEWS_P} JOIN categories g ON g.id = p.category_id"
REVIEWS_C = "FROM reviews v JOIN customers c ON c.id = v.customer_id"
UNITS, REVENUE = "SUM(l.quantity)", "SUM(l.quantity * l.unit_price)"

CONDITIONS: dict[str, list[tuple[str, str]]] = {
    "customers": [
        ("c.city = '{city}'", "from {city}"),
        ("c.city = '{city}'", "who live in {city}"),
        ("c.country = '{country}'", "from {country}"),
        ("c.country = '{country}'", "in {country}"),
        ("c.country <> '{country}'", "from any country but {country}"),
        ("c.city IN ('{city}', '{other_city}')", "from {city} or {other_city}"),
        ("c.joined_on {when}", "who joined {when}"),
        ("c.joined_on {when}", "who joined {when}"),
        ("c.name LIKE '{first_name} %'", "whose first name is {first_name}"),
    ],
    "products": [
        ("p.price > {price}", "that cost more than {price}"),
        ("p.price < {price}", "that cost less than {price}"),
        ("p.price >= {price}", "that cost at least {price}"),
        ("p.price BETWEEN {price} AND {higher_price}", "that cost {price} to {higher_price}"),
        ("p.stock < {stock}", "of which fewer than {stock} are in stock"),
        ("p.stock > {stock}", "of which more than {stock} are in stock"),
        ("p.stock = 0", "that are out of stock"),
        ("p.name LIKE '%{word}%'", "with the word {word} in the name"),
    ],
    "orders": [
        ("o.status = '{status}'", "that are {status}"),
        ("o.status = '{status}'", "with the status {status}"),
        ("o.status <> '{status}'", "that are not {status}"),
        ("o.payment = '{payment}'", "paid by {payment}"),
        ("o.payment <> '{payment}'", "not paid by {payment}"),
        ("o.payment IN ('{payment}', '{other_payment}')", "paid by {payment} or {other_payment}"),
        ("o.ordered_on {when}", "placed {when}"),
        ("o.ordered_on {when}", "placed {when}"),
        ("o.ordered_on {when}", "placed {when}"),
        ("o.ordered_on {when}", "placed {when}"),
    ],
    "sales": [("o.ordered_on {when}", "{when}"), ("o.ordered_on {when}", "{when}"),
              ("o.status <> 'cancelled'", "without cancelled orders"),
              ("o.status = '{status}'", "in orders that are {status}"),
              ("o.payment = '{payment}'", "in orders paid by {payment}")],
    "buyers": [("c.country = '{country}'", "customers from {country}"),
               ("c.country = '{country}'", "customers in {country}"),
               ("c.city = '{city}'", "customers from {city}"),
               ("c.name = '{customer}'", "{customer}"),
               ("c.joined_on {when}", "customers who joined {when}")],
    "returns": [
        ("r.reason = '{reason}'", "with the reason '{reason}'"),
        ("r.reason <> '{reason}'", "for other reasons than '{reason}'"),
        ("r.returned_on {when}", "made {when}"),
        ("r.returned_on {when}", "made {when}"),
    ],
    "reviews": [
        ("v.rating = {rating}", "with {rating} stars"),
        ("v.rating >= {rating}", "with at least {rating} stars"),
        ("v.rating <= {rating}", "with {rating} stars or fewer"),
        ("v.rating < {rating}", "with fewer than {rating} stars"),
        ("v.written_on {when}", "written {when}"),
        ("v.written_on {when}", "written {when}"),
    ],
    "when": [
        ("LIKE '{year}%'", "in {year}"),
        ("LIKE '{year}%'", "in {year}"),
        ("LIKE '{month}%'", "in {month}"),
        ("LIKE '{month}%'", "in {month}"),
        ("LIKE '{month}%'", "in {month}"),
        ("< '{month}-01'", "before {month}"),
        (">= '{month}-01'", "since the start of {month}"),
        ("> '{month}-{day}'", "after day {day} of {month}"),
        ("BETWEEN '{month}-{day}' AND '{month}-28'", "from the {day}th to the 28th of {month}"),
        ("BETWEEN '{year}-01-01' AND '{year}-03-31'", "in the first quarter of {year}"),
        ("BETWEEN '{year}-04-01' AND '{year}-06-30'", "in the second quarter of {year}"),
        ("BETWEEN '{year}-07-01' AND '{year}-12-31'", "in the second half of {year}"),
    ],
}  # fmt: skip
PATTERNS: list[tuple[str, str]] = [
    # One table
    ("SELECT name FROM customers WHERE {customers}", "the names of customers {customers}"),
    ("SELECT name FROM customers WHERE {customers1} AND {customers2}", "the names of customers {customers1} {customers2}"),
    ("SELECT COUNT(*) FROM customers WHERE {customers}", "the number of customers {customers}"),
    ("SELECT COUNT(*) FROM customers WHERE {customers1} AND {customers2}", "the number of customers {customers1} {customers2}"),
    ("SELECT city FROM customers WHERE name = '{customer}'", "the city where {customer} lives"),
    ("SELECT country, COUNT(*) FROM customers WHERE joined_on {when} GROUP BY country", "for each country, the number of customers who joined {when}"),
    ("SELECT city, COUNT(*) FROM customers GROUP BY city HAVING COUNT(*) > {count}", "cities with more than {count} customers, and their number"),
    ("SELECT city FROM customers WHERE country = '{country}' GROUP BY city ORDER BY COUNT(*) DESC LIMIT 1", "the city in {country} with the most customers"),
    ("SELECT DISTINCT city FROM customers WHERE {customers}", "the different cities of customers {customers}"),
    ("SELECT name FROM customers WHERE {customers} ORDER BY joined_on DESC LIMIT {top}", "the {top} customers {customers} who joined last, newest first"),
    ("SELECT name FROM customers WHERE country = '{country}' ORDER BY name", "the names of customers from {country} in alphabetical order"),
    ("SELECT MIN(joined_on) FROM customers WHERE {customers}", "the date when the first of the customers {customers} joined"),
    ("SELECT price FROM products WHERE name = '{product}'", "the price of the {product}"),
    ("SELECT stock FROM products WHERE name = '{product}'", "how many of the {product} are in stock"),
    ("SELECT name FROM products WHERE {products}", "products {products}"),
    ("SELECT name, price FROM products WHERE {products}", "products {products}, with their prices"),
    ("SELECT name, stock FROM products WHERE {products1} AND {products2}", "products {products1} and {products2}, with their stock"),
    ("SELECT COUNT(*) FROM products WHERE {products}", "the number of products {products}"),
    ("SELECT COUNT(*) FROM products WHERE {products1} AND {products2}", "the number of products {products1} and {products2}"),
    ("SELECT AVG(price) FROM products WHERE {products}", "the average price of products {products}"),
    ("SELECT MAX(price) FROM products WHERE {products}", "the highest price among products {products}"),
    ("SELECT SUM(stock) FROM products WHERE {products}", "the total stock of products {products}"),
    ("SELECT SUM(price * stock) FROM products WHERE {products}", "the value of the stock (price times stock) of products {products}"),
    ("SELECT name FROM products ORDER BY price DESC LIMIT {top}", "the {top} most expensive products, dearest first"),
    ("SELECT name FROM products WHERE {products} ORDER BY price LIMIT {top}", "the {top} cheapest products {products}, cheapest first"),
    ("SELECT name, stock FROM products ORDER BY stock DESC LIMIT {top}", "the {top} products with the most stock, with it, most first"),
    ("SELECT name FROM products WHERE price > (SELECT AVG(price) FROM products) AND {products}", "products {products} with a price above the average price"),
    ("SELECT COUNT(*) FROM products WHERE price < (SELECT price FROM products WHERE name = '{product}')", "the number of products that are cheaper than the {product}"),
    ("SELECT COUNT(*) FROM orders WHERE {orders}", "the number of orders {orders}"),
    ("SELECT COUNT(*) FROM orders WHERE {orders1} AND {orders2}", "the number of orders {orders1} {orders2}"),
    ("SELECT id FROM orders WHERE {orders1} AND {orders2}", "the ids of orders {orders1} {orders2}"),
    ("SELECT status, COUNT(*) FROM orders WHERE {orders} GROUP BY status", "for each status, the number of orders {orders}"),
    ("SELECT payment, COUNT(*) FROM orders WHERE {orders} GROUP BY payment ORDER BY COUNT(*) DESC", "for each payment method, the number of orders {orders}, highest number first"),
    ("SELECT substr(ordered_on, 1, 7), COUNT(*) FROM orders WHERE {orders} GROUP BY substr(ordered_on, 1, 7)", "for each month, the number of orders {orders}"),
    ("SELECT substr(ordered_on, 1, 4), COUNT(*) FROM orders WHERE {orders} GROUP BY substr(ordered_on, 1, 4)", "for each year, the number of orders {orders}"),
    ("SELECT MAX(ordered_on) FROM orders WHERE {orders}", "the date of the last order among those {orders}"),
    ("SELECT COUNT(DISTINCT customer_id) FROM orders WHERE {orders}", "the number of different customers who have orders {orders}"),
    ("SELECT substr(ordered_on, 1, 7) FROM orders WHERE {orders} GROUP BY substr(ordered_on, 1, 7) ORDER BY COUNT(*) DESC LIMIT 1", "the month with the most orders {orders}"),
    ("SELECT ordered_on, COUNT(*) FROM orders WHERE ordered_on LIKE '{month}%' GROUP BY ordered_on", "for each day in {month}, the number of orders"),
    ("SELECT COUNT(*) FROM returns WHERE {returns}", "the number of returns {returns}"),
    ("SELECT COUNT(*) FROM returns WHERE {returns1} AND {returns2}", "the number of returns {returns1} {returns2}"),
    ("SELECT reason, COUNT(*) FROM returns WHERE {returns} GROUP BY reason ORDER BY COUNT(*) DESC", "for each reason, the number of returns {returns}, most first"),
    ("SELECT COUNT(*) FROM reviews WHERE {reviews}", "the number of reviews {reviews}"),
    ("SELECT COUNT(*) FROM reviews WHERE {reviews1} AND {reviews2}", "the number of reviews {reviews1} {reviews2}"),
    ("SELECT rating, COUNT(*) FROM reviews WHERE written_on {when} GROUP BY rating", "for each rating, the number of reviews written {when}"),
    ("SELECT AVG(rating) FROM reviews WHERE written_on {when}", "the average rating of reviews written {when}"),
    # Products and categories
    (f"SELECT p.name {PRODUCTS_G} WHERE g.name = '{{category}}' AND {{products}}", "{category} products {products}"),
    (f"SELECT p.name, p.price {PRODUCTS_G} WHERE g.name = '{{category}}' AND {{products}}", "{category} products {products}, with their prices"),
    (f"SELECT COUNT(*) {PRODUCTS_G} WHERE g.name = '{{category}}' AND {{products}}", "the number of {category} products {products}"),
    (f"SELECT AVG(p.price) {PRODUCTS_G} WHERE g.name = '{{category}}'", "the average price of {category} products"),
    (f"SELECT SUM(p.stock) {PRODUCTS_G} WHERE g.name = '{{category}}' AND {{products}}", "the total stock of {category} products {products}"),
    (f"SELECT p.name {PRODUCTS_G} WHERE g.name = '{{category}}' ORDER BY p.price LIMIT {{top}}", "the {top} cheapest {category} products, cheapest first"),
    (f"SELECT p.name {PRODUCTS_G} WHERE g.name = '{{category}}' ORDER BY p.stock DESC LIMIT 1", "the {category} product with the most stock"),
    (f"SELECT g.name, COUNT(*) {PRODUCTS_G} WHERE {{products}} GROUP BY g.name", "for each category, the number of products {products}"),
    (f"SELECT g.name, AVG(p.price) {PRODUCTS_G} GROUP BY g.name HAVING AVG(p.price) > {{price}}", "categories with an average price above {price}, and that average"),
    (f"SELECT g.name {PRODUCTS_G} GROUP BY g.name ORDER BY MAX(p.price) DESC LIMIT {{top}}", "the {top} categories with the dearest products, dearest first"),
    (f"SELECT g.name {PRODUCTS_G} WHERE p.name = '{{product}}'", "the category of the {product}"),
    (f"SELECT COUNT(*) {PRODUCTS_G} WHERE g.name <> '{{category}}' AND {{products}}", "the number of products {products} that are not {category} products"),
    # Orders and customers
    (f"SELECT COUNT(*) {ORDERS_C} WHERE {{customers}} AND {{orders}}", "the number of orders {orders} by customers {customers}"),
    (f"SELECT COUNT(*) {ORDERS_C} WHERE {{customers}}", "the number of orders by customers {customers}"),
    (f"SELECT o.id {ORDERS_C} WHERE {{customers}} AND {{orders}}", "the ids of orders {orders} by customers {customers}"),
    (f"SELECT o.id, o.ordered_on {ORDERS_C} WHERE c.name = '{{customer}}' ORDER BY o.ordered_on", "the ids and dates of the orders of {customer}, oldest first"),
    (f"SELECT COUNT(*) {ORDERS_C} WHERE c.name = '{{customer}}'", "the number of orders of {customer}"),
    (f"SELECT MIN(o.ordered_on) {ORDERS_C} WHERE c.name = '{{customer}}'", "the date of the first order of {customer}"),
    (f"SELECT c.country, COUNT(*) {ORDERS_C} WHERE {{orders}} GROUP BY c.country", "for each country, the number of orders {orders}"),
    (f"SELECT c.city, COUNT(*) {ORDERS_C} WHERE {{orders}} GROUP BY c.city ORDER BY COUNT(*) DESC LIMIT 1", "the city with the most orders {orders}, and their number"),
    (f"SELECT o.payment, COUNT(*) {ORDERS_C} WHERE {{customers}} GROUP BY o.payment", "for each payment method, the number of orders by customers {customers}"),
    (f"SELECT DISTINCT c.name {ORDERS_C} WHERE {{customers}} AND {{orders}}", "customers {customers} who have orders {orders}"),
    (f"SELECT COUNT(DISTINCT c.id) {ORDERS_C} WHERE {{customers}} AND {{orders}}", "the number of different customers {customers} with orders {orders}"),
    (f"SELECT c.name, COUNT(*) {ORDERS_C} WHERE {{orders}} GROUP BY c.id HAVING COUNT(*) >= {{few}}", "customers with at least {few} orders {orders}, and their number"),
    (f"SELECT c.name {ORDERS_C} WHERE {{customers}} GROUP BY c.id HAVING COUNT(*) > {{few}}", "customers {customers} with more than {few} orders"),
    (f"SELECT c.name {ORDERS_C} WHERE {{customers}} GROUP BY c.id ORDER BY COUNT(*) DESC LIMIT 1", "the customer with the most orders among the customers {customers}"),
    ("SELECT name FROM customers WHERE {customers} AND id NOT IN (SELECT customer_id FROM orders)", "customers {customers} who have never ordered"),
    ("SELECT COUNT(*) FROM customers WHERE {customers} AND id NOT IN (SELECT customer_id FROM orders)", "the number of customers {customers} who have no orders"),
    ("SELECT name FROM customers WHERE country = '{country}' AND id NOT IN (SELECT customer_id FROM orders WHERE ordered_on {when})", "customers from {country} who have no order {when}"),
    ("SELECT name FROM customers WHERE {customers} AND id NOT IN (SELECT customer_id FROM reviews)", "customers {customers} who have never written a review"),
    # What is in orders
    ("SELECT SUM(quantity * unit_price) FROM order_lines WHERE order_id = {order}", "the total price of order {order}"),
    ("SELECT SUM(quantity) FROM order_lines WHERE order_id = {order}", "the number of units in order {order}"),
    (f"SELECT p.name {LINES_P} WHERE l.order_id = {{order}}", "the products in order {order}"),
    (f"SELECT p.name, l.unit_price {LINES_P} WHERE l.order_id = {{order}}", "the products in order {order} with the unit price of each"),
    ("SELECT order_id FROM order_lines GROUP BY order_id ORDER BY SUM(quantity * unit_price) DESC LIMIT {top}", "the ids of the {top} orders with the highest total, highest first"),
    ("SELECT order_id FROM order_lines GROUP BY order_id HAVING SUM(quantity) > {units}", "the ids of orders with more than {units} units"),
    ("SELECT order_id FROM order_lines GROUP BY order_id HAVING SUM(quantity * unit_price) > {amount}", "the ids of orders with a total above {amount}"),
    (f"SELECT l.order_id {LINES_P} WHERE p.name = '{{product}}'", "the ids of orders that contain the {product}"),
    (f"SELECT COUNT(DISTINCT o.id) {LINES_OG} WHERE g.name = '{{category}}' AND {{orders}}", "the number of orders {orders} that contain {category} products"),
    # Sales
    (f"SELECT {UNITS} {LINES_P} WHERE p.name = '{{product}}'", "the units sold of the {product}"),
    (f"SELECT {REVENUE} {LINES_P} WHERE p.name = '{{product}}'", "the revenue of the {product}"),
    (f"SELECT {UNITS} {LINES_OP} WHERE p.name = '{{product}}' AND {{sales}}", "the units sold of the {product} {sales}"),
    (f"SELECT {REVENUE} {LINES_OP} WHERE p.name = '{{product}}' AND {{sales}}", "the revenue of the {product} {sales}"),
    (f"SELECT {REVENUE} {LINES} WHERE {{sales}}", "the revenue {sales}"),
    (f"SELECT {UNITS} {LINES} WHERE {{sales}}", "the units sold {sales}"),
    (f"SELECT {REVENUE} {LINES_G} WHERE g.name = '{{category}}'", "the revenue of {category} products"),
    (f"SELECT {REVENUE} {LINES_OG} WHERE g.name = '{{category}}' AND {{sales}}", "the revenue of {category} products {sales}"),
    (f"SELECT {UNITS} {LINES_OG} WHERE g.name = '{{category}}' AND {{sales}}", "the units of {category} products sold {sales}"),
    (f"SELECT {REVENUE} {LINES_C} WHERE {{buyers}}", "how much {buyers} spent in all"),
    (f"SELECT {REVENUE} {LINES_C} WHERE {{buyers}} AND {{sales}}", "how much {buyers} spent {sales}"),
    (f"SELECT {REVENUE} {LINES_CG} WHERE g.name = '{{category}}' AND {{buyers}}", "how much {buyers} spent on {category} products"),
    (f"SELECT {UNITS} {LINES_CP} WHERE p.name = '{{product}}' AND c.country = '{{country}}'", "the units of the {product} sold to customers in {country}"),
    (f"SELECT g.name, {REVENUE} {LINES_OG} WHERE {{sales}} GROUP BY g.name", "for each category, the revenue {sales}"),
    (f"SELECT g.name, {UNITS} {LINES_OG} WHERE {{sales}} GROUP BY g.name ORDER BY {UNITS} DESC", "for each category, the units sold {sales}, most first"),
    (f"SELECT c.country, {REVENUE} {LINES_C} WHERE {{sales}} GROUP BY c.country", "for each country, the revenue {sales}"),
    (f"SELECT c.country, {UNITS} {LINES_CG} WHERE g.name = '{{category}}' GROUP BY c.country", "for each country, the units of {category} products sold"),
    (f"SELECT substr(o.ordered_on, 1, 7), {REVENUE} {LINES} WHERE {{sales}} GROUP BY substr(o.ordered_on, 1, 7)", "for each month, the revenue {sales}"),
    (f"SELECT substr(o.ordered_on, 1, 7), {UNITS} {LINES_OG} WHERE g.name = '{{category}}' AND o.ordered_on LIKE '{{year}}%' GROUP BY substr(o.ordered_on, 1, 7)", "for each month of {year}, the units of {category} products sold"),
    (f"SELECT p.name {LINES_P} GROUP BY p.id ORDER BY {REVENUE} DESC LIMIT {{top}}", "the {top} products with the highest revenue, best first"),
    (f"SELECT p.name {LINES_OP} WHERE {{sales}} GROUP BY p.id ORDER BY {UNITS} DESC LIMIT {{top}}", "the {top} products that sold the most units {sales}, best first"),
    (f"SELECT p.name {LINES_G} WHERE g.name = '{{category}}' GROUP BY p.id ORDER BY {REVENUE} DESC LIMIT {{top}}", "the {top} {category} products with the highest revenue, best first"),
    (f"SELECT p.name, {UNITS} {LINES_G} WHERE g.name = '{{category}}' GROUP BY p.id", "for each {category} product, the units sold"),
    (f"SELECT c.name {LINES_C} WHERE {{sales}} GROUP BY c.id ORDER BY {REVENUE} DESC LIMIT {{top}}", "the {top} customers who spent the most {sales}, highest first"),
    (f"SELECT c.name, {REVENUE} {LINES_C} WHERE c.city = '{{city}}' GROUP BY c.id", "for each customer from {city}, the money spent"),
    (f"SELECT c.name {LINES_C} WHERE {{customers}} GROUP BY c.id HAVING {REVENUE} > {{amount}}", "customers {customers} who spent more than {amount} in all"),
    (f"SELECT DISTINCT c.name {LINES_CP} WHERE p.name = '{{product}}' AND {{customers}}", "customers {customers} who bought the {product}"),
    (f"SELECT DISTINCT c.name {LINES_CP} WHERE p.name = '{{product}}' AND {{orders}}", "customers who bought the {product} in orders {orders}"),
    (f"SELECT DISTINCT c.name {LINES_CG} WHERE g.name = '{{category}}' AND c.city = '{{city}}'", "customers from {city} who bought {category} products"),
    (f"SELECT COUNT(DISTINCT c.id) {LINES_CG} WHERE g.name = '{{category}}' AND {{customers}}", "the number of different customers {customers} who bought {category} products"),
    (f"SELECT DISTINCT p.name {LINES_CP} WHERE c.name = '{{customer}}'", "the products that {customer} bought"),
    (f"SELECT DISTINCT p.name {LINES_CG} WHERE g.name = '{{category}}' AND {{buyers}}", "the {category} products that {buyers} bought"),
    ("SELECT name FROM products WHERE {products} AND id NOT IN (SELECT product_id FROM order_lines)", "products {products} that were never sold"),
    ("SELECT name FROM products WHERE {products} AND id NOT IN (SELECT product_id FROM reviews)", "products {products} without any review"),
    (f"SELECT p.name {PRODUCTS_G} WHERE g.name = '{{category}}' AND p.id NOT IN (SELECT product_id FROM {{table_p}})", "{category} products {table_p}"),
    ("SELECT COUNT(*) FROM orders WHERE {orders} AND id NOT IN (SELECT order_id FROM returns)", "the number of orders {orders} of which nothing was returned"),
    ("SELECT COUNT(*) FROM orders WHERE {orders} AND id IN (SELECT order_id FROM returns)", "the number of orders {orders} of which something was returned"),
    (f"SELECT p.name {PRODUCTS_G} WHERE g.name = '{{category}}' AND p.price > (SELECT AVG(price) FROM products)", "{category} products with a price above the average of all products"),
    # Returns
    (f"SELECT COUNT(*) {RETURNS_G} WHERE g.name = '{{category}}' AND {{returns}}", "the number of returns of {category} products {returns}"),
    (f"SELECT COUNT(*) {RETURNS_P} WHERE p.name = '{{product}}'", "the number of returns of the {product}"),
    (f"SELECT r.reason {RETURNS_P} WHERE p.name = '{{product}}'", "the reasons for the returns of the {product}"),
    (f"SELECT g.name, COUNT(*) {RETURNS_G} WHERE {{returns}} GROUP BY g.name", "for each category, the number of returns {returns}"),
    (f"SELECT p.name, COUNT(*) {RETURNS_P} WHERE {{returns}} GROUP BY p.id ORDER BY COUNT(*) DESC LIMIT {{top}}", "the {top} products with the most returns {returns}, with their number, most first"),
    (f"SELECT p.name {RETURNS_P} GROUP BY p.id HAVING COUNT(*) >= {{few}}", "products with at least {few} returns"),
    (f"SELECT DISTINCT p.name {RETURNS_G} WHERE g.name = '{{category}}' AND {{returns}}", "{category} products with returns {returns}"),
    (f"SELECT COUNT(*) {RETURNS_C} WHERE {{customers}} AND {{returns}}", "the number of returns {returns} by customers {customers}"),
    (f"SELECT DISTINCT c.name {RETURNS_C} WHERE {{customers}} AND {{returns}}", "customers {customers} with returns {returns}"),
    (f"SELECT c.country, COUNT(*) {RETURNS_C} WHERE {{returns}} GROUP BY c.country ORDER BY COUNT(*) DESC", "for each country, the number of returns {returns}, most first"),
    # Reviews
    (f"SELECT AVG(v.rating) {REVIEWS_P} WHERE p.name = '{{product}}'", "the average rating of the {product}"),
    (f"SELECT COUNT(*) {REVIEWS_P} WHERE p.name = '{{product}}' AND {{reviews}}", "the number of reviews of the {product} {reviews}"),
    (f"SELECT AVG(v.rating) {REVIEWS_G} WHERE g.name = '{{category}}'", "the average rating of {category} products"),
    (f"SELECT AVG(v.rating) {REVIEWS_G} WHERE g.name = '{{category}}' AND v.written_on {{when}}", "the average rating of {category} products in reviews written {when}"),
    (f"SELECT g.name, AVG(v.rating) {REVIEWS_G} WHERE v.written_on {{when}} GROUP BY g.name", "for each category, the average rating in reviews written {when}"),
    (f"SELECT g.name, COUNT(*) {REVIEWS_G} WHERE {{reviews}} GROUP BY g.name ORDER BY COUNT(*) DESC", "for each category, the number of reviews {reviews}, most first"),
    (f"SELECT p.name {REVIEWS_P} GROUP BY p.id HAVING AVG(v.rating) > {{mean}}", "products with an average rating above {mean}"),
    (f"SELECT p.name, AVG(v.rating) {REVIEWS_G} WHERE g.name = '{{category}}' GROUP BY p.id", "for each {category} product, the average rating"),
    (f"SELECT p.name {REVIEWS_P} WHERE {{reviews}} GROUP BY p.id HAVING COUNT(*) >= {{few}}", "products with at least {few} reviews {reviews}"),
    (f"SELECT DISTINCT p.name {REVIEWS_G} WHERE g.name = '{{category}}' AND {{reviews}}", "{category} products that have reviews {reviews}"),
    (f"SELECT DISTINCT c.name {REVIEWS_C} WHERE {{customers}} AND {{reviews}}", "customers {customers} who wrote reviews {reviews}"),
    (f"SELECT COUNT(*) {REVIEWS_C} WHERE {{customers}} AND {{reviews}}", "the number of reviews {reviews} by customers {customers}"),
    (f"SELECT AVG(v.rating) {REVIEWS_C} WHERE {{customers}}", "the average rating given by customers {customers}"),
    (f"SELECT c.name, COUNT(*) {REVIEWS_C} GROUP BY c.id HAVING COUNT(*) >= {{few}}", "customers who wrote at least {few} reviews, and their number"),
]  # fmt: skip


def query(draw: random.Random) -> tuple[str, str]:
    """Return a query that has a result, and what it asks for."""
    while True:
        sql, words = _filled(draw.choice(PATTERNS), draw)
        sql = re.sub(r"'(\d{4}-\d\d)-(\d)'", r"'\1-0\2'", sql)
        for alias, table in {"c": "customers", "p": "products", "o": "orders", "r": "returns",
                             "v": "reviews"}.items():  # fmt: skip
            if f"{table} {alias}" not in sql:
                sql = re.sub(rf"\b{alias}\.", "", sql)
        if not SAME.search(sql) and _has_result(sql):
            return sql, words


def _filled(pattern: tuple[str, str], draw: random.Random) -> tuple[str, str]:
    """Fill the slots of a query and of its words with the same draws."""
    sql, words = pattern
    columns: dict[str, str] = {}
    for name, number in dict.fromkeys(SLOT.findall(sql)):
        filled = _slot(name, draw)
        while number and filled[0].split()[0] == columns.get(name):
            filled = _slot(name, draw)
        columns[name] = filled[0].split()[0]
        sql = sql.replace(f"{{{name}{number}}}", filled[0])
        words = words.replace(f"{{{name}{number}}}", filled[1])
    return sql, words


def _slot(name: str, draw: random.Random) -> tuple[str, str]:
    if name in CONDITIONS:
        return _filled(draw.choice(CONDITIONS[name]), draw)
    if name == "month":
        year, month = draw.choice((2024, 2025)), draw.choice(list(MONTHS))
        return f"{year}-{month:02}", f"{MONTHS[month]} {year}"
    if name == "table_p":
        return draw.choice([("order_lines", "that were never sold"),
                            ("returns", "that were never returned"),
                            ("reviews", "that nobody has reviewed")])  # fmt: skip
    value = draw.choice(_values()[name])
    return value, value.lower() if name == "category" else value


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
