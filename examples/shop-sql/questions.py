"""Makes the test questions: `python examples/shop-sql/questions.py` writes `references.jsonl`.

Two kinds, neither of which occurs in training: templates, filled with cities, products, customers
and dates that `draws.py` never uses, and questions as people type them, each with its own query.
A question is left out where its query returns nothing, the same as another one's, a lone 0 or 1, or
rows whose order is not determined.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from shop import CITIES, PATH, PAYMENTS, PRODUCTS, REASONS, STATUSES  # noqa: E402

SEED = 7
NUM_OF_A_TEMPLATE = 5
MONTHS = (
    "January February March April May June July August September October November December"
).split()

# Each entry: the query, then phrasings; the first slot of a name is its value in SQL.
TEMPLATES: list[tuple[str, ...]] = [
    # One table, counts and lists
    ("SELECT COUNT(*) FROM customers WHERE city = '{city}'",
     "How many people in {city} have an account with us?", "What's the size of our customer base in {city}?"),
    ("SELECT name FROM customers WHERE country = '{country}' AND joined_on >= '{year}-01-01' AND joined_on <= '{year}-12-31'",
     "Who signed up from {country} during {year}?", "Names of the {country} accounts opened in {year}, please."),
    ("SELECT COUNT(*) FROM orders WHERE status = '{status}' AND ordered_on LIKE '{month}%'",
     "How many of the orders placed in {month_words} are {status}?", "{month_words}: number of {status} orders"),
    ("SELECT id FROM orders WHERE payment = '{payment}' AND status = '{status}' AND ordered_on >= '{year}-01-01' AND ordered_on <= '{year}-12-31'",
     "Give me the ids of the {status} orders from {year} that were paid by {payment}.",
     "Order numbers for {payment} payments in {year} where the status is {status}"),
    ("SELECT name, price FROM products WHERE price > {price} AND stock < {small}",
     "Which products cost over {price} and have fewer than {small} left? Show their prices too.",
     "Pricey stuff (above {price}) that's nearly gone, under {small} in stock: name and price"),
    ("SELECT name FROM products WHERE name LIKE '%{word}%'",
     "Do we sell anything with '{word}' in its name? List it.", "Find every product whose name contains {word}."),
    ("SELECT COUNT(DISTINCT city) FROM customers WHERE country = '{country}'",
     "In how many different cities of {country} do we have customers?", "{country}: number of distinct customer cities"),
    ("SELECT joined_on FROM customers WHERE name = '{customer}'",
     "When did {customer} become a customer?", "Since what day has {customer} been with us?"),
    ("SELECT reason, COUNT(*) FROM returns WHERE returned_on LIKE '{month}%' GROUP BY reason",
     "Break the returns of {month_words} down by reason.", "For each reason, how many things came back in {month_words}?"),
    ("SELECT payment, COUNT(*) FROM orders WHERE ordered_on LIKE '{year}%' GROUP BY payment ORDER BY COUNT(*) DESC",
     "Rank the ways of paying in {year} by how often they were used.", "Payment methods of {year} with their order counts, most used first"),
    ("SELECT AVG(rating) FROM reviews WHERE written_on LIKE '{month}%'",
     "What was the mean star rating given in {month_words}?", "Average review score, {month_words}"),
    ("SELECT MIN(price), MAX(price) FROM products WHERE stock > {stock}",
     "Among products with more than {stock} pieces in stock, what are the lowest and the highest price?",
     "Price range (cheapest, then dearest) of items we have over {stock} of"),
    ("SELECT substr(ordered_on, 1, 7), COUNT(*) FROM orders WHERE ordered_on LIKE '{year}%' AND status = '{status}' GROUP BY substr(ordered_on, 1, 7)",
     "Give the count of {status} orders for each month of {year}.", "Month by month, how many orders of {year} are {status}?"),
    # Joins of two tables
    ("SELECT COUNT(*) FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name = '{category}' AND p.price < {price}",
     "How many {category_low} products can I get for under {price}?", "Number of items in {category} that cost less than {price}"),
    ("SELECT p.name FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name = '{category}' ORDER BY p.price DESC LIMIT {top}",
     "What are the {top} most expensive things in {category}?", "Top {top} {category_low} products by price, dearest first"),
    ("SELECT o.id FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.name = '{buyer}'",
     "Show me the order ids of {buyer}.", "Which orders belong to {buyer}?"),
    ("SELECT MAX(o.ordered_on) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.name = '{buyer}'",
     "What's the date of {buyer}'s latest order?", "When did {buyer} last buy something?"),
    ("SELECT COUNT(*) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.country = '{country}' AND o.status = '{status}'",
     "How many {status} orders came from {country}?", "Number of orders with status {status} by buyers in {country}"),
    ("SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.id HAVING COUNT(*) > {many}",
     "Which customers have placed more than {many} orders?", "Names of people with over {many} orders to their name"),
    ("SELECT c.city, COUNT(*) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.country = '{country}' GROUP BY c.city",
     "Number of orders per city in {country}?", "Split the {country} orders by city."),
    ("SELECT AVG(r.rating) FROM reviews r JOIN products p ON p.id = r.product_id WHERE p.name = '{product}'",
     "How well is the {product} rated on average?", "Mean rating of our {product}?"),
    ("SELECT p.name, COUNT(*) FROM reviews r JOIN products p ON p.id = r.product_id GROUP BY p.id HAVING COUNT(*) >= {reviews}",
     "Which products got at least {reviews} reviews, and how many did each get?", "List products with {reviews} or more reviews together with that number."),
    ("SELECT r.returned_on, r.reason FROM returns r JOIN products p ON p.id = r.product_id WHERE p.name = '{returned}'",
     "On which dates and for what reasons was the {returned} sent back?", "{returned}: return dates with reasons"),
    ("SELECT DISTINCT c.name FROM customers c JOIN reviews r ON r.customer_id = c.id WHERE r.rating = {rating} AND r.written_on LIKE '{month}%'",
     "Who left a {rating}-star review in {month_words}?", "Which customers rated something {rating} in {month_words}?"),
    ("SELECT SUM(l.quantity) FROM order_lines l JOIN products p ON p.id = l.product_id WHERE p.name = '{product}'",
     "How many units of the {product} did we sell in total?", "Total quantity sold: {product}"),
    ("SELECT SUM(l.quantity * l.unit_price) FROM order_lines l JOIN products p ON p.id = l.product_id WHERE p.name = '{product}'",
     "How much money did the {product} bring in?", "What's the overall revenue from the {product}?"),
    ("SELECT SUM(quantity * unit_price) FROM order_lines WHERE order_id = {order}",
     "What does order {order} add up to?", "Total amount of order number {order}?"),
    ("SELECT p.name, l.quantity FROM order_lines l JOIN products p ON p.id = l.product_id WHERE l.order_id = {order}",
     "What was in order {order}, and how many of each?", "List the items of order {order} with quantities."),
    ("SELECT AVG(p.price) FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name = '{category}' AND p.stock > {stock}",
     "What's the average price of {category_low} items that we have more than {stock} of?", "Mean price in {category}, counting only products with stock above {stock}"),
    # Joins of three and four tables
    ("SELECT SUM(l.quantity * l.unit_price) FROM order_lines l JOIN orders o ON o.id = l.order_id WHERE o.ordered_on LIKE '{month}%'",
     "What was our turnover in {month_words}?", "How much did customers spend in {month_words} altogether?"),
    ("SELECT SUM(l.quantity * l.unit_price) FROM order_lines l JOIN orders o ON o.id = l.order_id JOIN customers c ON c.id = o.customer_id WHERE c.name = '{buyer}'",
     "How much has {buyer} spent with us so far?", "Lifetime spending of {buyer}?"),
    ("SELECT DISTINCT c.name FROM customers c JOIN orders o ON o.customer_id = c.id JOIN order_lines l ON l.order_id = o.id JOIN products p ON p.id = l.product_id WHERE p.name = '{product}'",
     "Who bought the {product}?", "Names of everyone who has ordered a {product}"),
    ("SELECT DISTINCT p.name FROM products p JOIN order_lines l ON l.product_id = p.id JOIN orders o ON o.id = l.order_id JOIN customers c ON c.id = o.customer_id WHERE c.name = '{buyer}'",
     "Which products has {buyer} ordered?", "Everything {buyer} ever bought, each product once"),
    ("SELECT SUM(l.quantity) FROM order_lines l JOIN products p ON p.id = l.product_id JOIN categories g ON g.id = p.category_id JOIN orders o ON o.id = l.order_id WHERE g.name = '{category}' AND o.ordered_on LIKE '{year}%'",
     "How many {category_low} units were sold in {year}?", "Units of {category} sold over the year {year}"),
    ("SELECT g.name, SUM(l.quantity * l.unit_price) FROM order_lines l JOIN products p ON p.id = l.product_id JOIN categories g ON g.id = p.category_id JOIN orders o ON o.id = l.order_id WHERE o.ordered_on LIKE '{month}%' GROUP BY g.name",
     "Revenue of {month_words} split by category", "How much did each category earn in {month_words}?"),
    ("SELECT COUNT(*) FROM returns r JOIN products p ON p.id = r.product_id JOIN categories g ON g.id = p.category_id WHERE g.name = '{category}' AND r.reason = '{reason}'",
     "How many {category_low} returns were because of '{reason}'?", "Count the returns of {category} products with the reason {reason}."),
    ("SELECT p.name FROM products p JOIN order_lines l ON l.product_id = p.id JOIN categories g ON g.id = p.category_id WHERE g.name = '{category}' GROUP BY p.id ORDER BY SUM(l.quantity) DESC LIMIT {top}",
     "Which {top} {category_low} products sold the most pieces? Best first.", "{category} bestsellers by units: top {top}"),
    ("SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id JOIN order_lines l ON l.order_id = o.id WHERE c.country = '{country}' GROUP BY c.id ORDER BY SUM(l.quantity * l.unit_price) DESC LIMIT {top}",
     "Our {top} biggest spenders in {country}, in order?", "Who are the {top} customers from {country} that spent the most?"),
    ("SELECT c.country, COUNT(*) FROM returns r JOIN orders o ON o.id = r.order_id JOIN customers c ON c.id = o.customer_id WHERE r.returned_on LIKE '{year}%' GROUP BY c.country",
     "Returns in {year} by the country of the customer?", "How many returns did each country have in {year}?"),
    ("SELECT COUNT(DISTINCT o.customer_id) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.city = '{city}' AND o.ordered_on LIKE '{year}%'",
     "How many different customers from {city} ordered in {year}?", "Number of active buyers in {city} during {year}, each counted once"),
    # Negation, comparison with a subquery, HAVING
    ("SELECT name FROM customers WHERE country = '{country}' AND id NOT IN (SELECT customer_id FROM orders)",
     "Which {country} customers never bought anything?", "Who in {country} has an account but not a single order?"),
    ("SELECT name FROM customers WHERE city = '{city}' AND id NOT IN (SELECT customer_id FROM orders WHERE ordered_on LIKE '{year}%')",
     "Customers from {city} without any order in {year}", "Who in {city} did not order at all during {year}?"),
    ("SELECT p.name FROM products p JOIN categories g ON g.id = p.category_id WHERE g.name = '{category}' AND p.id NOT IN (SELECT product_id FROM returns)",
     "Which {category_low} products were never returned?", "{category} items nobody has ever sent back"),
    ("SELECT COUNT(*) FROM orders WHERE status <> '{status}' AND ordered_on LIKE '{month}%'",
     "How many orders of {month_words} are not {status}?", "Orders from {month_words} with any status but {status}: how many?"),
    ("SELECT COUNT(*) FROM customers WHERE country <> '{country}' AND joined_on >= '{month}-01'",
     "Since the start of {month_words}, how many customers from outside {country} have joined?", "Number of sign-ups from {month_words} on, {country} not counted"),
    ("SELECT p.name FROM products p JOIN categories g ON g.id = p.category_id WHERE g.name = '{category}' AND p.price > (SELECT AVG(price) FROM products)",
     "Which {category_low} products are pricier than the average of all our products?", "{category} items costing more than our overall average price"),
    ("SELECT COUNT(*) FROM orders WHERE id NOT IN (SELECT order_id FROM returns) AND payment = '{payment}'",
     "How many {payment} orders had nothing returned?", "Number of orders paid with {payment} and without any return"),
    ("SELECT c.name FROM customers c JOIN reviews r ON r.customer_id = c.id GROUP BY c.id HAVING COUNT(*) >= {few} AND AVG(r.rating) < {rating}",
     "Who wrote at least {few} reviews with an average rating below {rating}?", "Grumpy reviewers: {few} or more reviews, mean under {rating} stars. Names?"),
    # Order and dates
    ("SELECT name FROM customers WHERE country = '{country}' ORDER BY joined_on LIMIT {top}",
     "Who were our first {top} customers in {country}?", "The {top} longest-standing customers from {country}, earliest first"),
    ("SELECT id, ordered_on FROM orders WHERE status = '{status}' AND payment = '{payment}' ORDER BY ordered_on DESC, id DESC LIMIT {top}",
     "The {top} most recent {status} orders paid by {payment}: id and date, newest first (highest id first on the same day)",
     "Latest {top} {payment} orders that are {status}, with id and date; same day: higher id first"),
    ("SELECT COUNT(*) FROM orders WHERE ordered_on BETWEEN '{month}-01' AND '{month}-15'",
     "How many orders were placed in the first fifteen days of {month_words}?", "Order count from the 1st to the 15th of {month_words}"),
    ("SELECT ordered_on, COUNT(*) FROM orders WHERE ordered_on LIKE '{month}%' GROUP BY ordered_on HAVING COUNT(*) > 2",
     "On which days of {month_words} did we get more than two orders? With the number.", "{month_words}: days with at least three orders, and how many"),
    ("SELECT COUNT(*) FROM reviews WHERE rating <= {low} AND written_on >= '{year}-01-01' AND written_on < '{year}-07-01'",
     "In the first half of {year}, how many reviews gave {low} stars or fewer?", "Number of reviews with at most {low} stars, January to June {year}"),
    ("SELECT SUM(stock * price) FROM products WHERE price >= {price}",
     "What's the value of the stock we hold in products priced {price} and up?", "Inventory worth (stock times price) of everything costing at least {price}"),
    ("SELECT g.name, COUNT(*) FROM products p JOIN categories g ON g.id = p.category_id WHERE p.price > {price} GROUP BY g.name ORDER BY COUNT(*) DESC, g.name",
     "How many products above {price} does each category have? Most first, ties by name.", "Categories with their number of products over {price}, sorted by that number downwards and then by name"),
    ("SELECT g.name FROM categories g JOIN products p ON p.category_id = g.id WHERE p.stock < {stock} GROUP BY g.id ORDER BY AVG(p.price) DESC LIMIT 1",
     "Looking only at products with fewer than {stock} in stock, which category is the most expensive on average?",
     "Which category has the highest mean price among items with stock under {stock}?"),
]  # fmt: skip

# As people type them: the question, the query.
PEOPLE: list[tuple[str, str]] = [
    ("how many customers do we have in total", "SELECT COUNT(*) FROM customers"),
    ("count of products we carry?", "SELECT COUNT(*) FROM products"),
    ("what's out of stock rn", "SELECT name FROM products WHERE stock = 0"),
    ("cheapest thing in the shop?", "SELECT name FROM products ORDER BY price LIMIT 1"),
    ("whats the single most expensive product we sell", "SELECT name FROM products ORDER BY price DESC LIMIT 1"),
    ("who joined most recently? just the one name", "SELECT name FROM customers ORDER BY joined_on DESC LIMIT 1"),
    ("how many orders are still pending", "SELECT COUNT(*) FROM orders WHERE status = 'pending'"),
    ("orders by status pls", "SELECT status, COUNT(*) FROM orders GROUP BY status"),
    ("number of customers per country", "SELECT country, COUNT(*) FROM customers GROUP BY country"),
    ("which cities in italy do our customers live in", "SELECT DISTINCT city FROM customers WHERE country = 'Italy'"),
    ("list all the lamps we sell w/ price", "SELECT name, price FROM products WHERE name LIKE '%lamp%'"),
    ("avg price of everything", "SELECT AVG(price) FROM products"),
    ("hey, can you tell me how many reviews with 1 star we got in 2025?", "SELECT COUNT(*) FROM reviews WHERE rating = 1 AND written_on LIKE '2025%'"),
    ("why do people return stuff? count for each reason, biggest first", "SELECT reason, COUNT(*) FROM returns GROUP BY reason ORDER BY COUNT(*) DESC"),
    ("total pieces in the warehouse", "SELECT SUM(stock) FROM products"),
    ("how many kinds of payment do people use", "SELECT COUNT(DISTINCT payment) FROM orders"),
    ("Which product do we have the most of on the shelf?", "SELECT name FROM products ORDER BY stock DESC LIMIT 1"),
    ("stuff under 10 bucks", "SELECT name FROM products WHERE price < 10"),
    ("anything between 50 and 60 euros? names only", "SELECT name FROM products WHERE price BETWEEN 50 AND 60"),
    ("people from Dublin or Cork, names please", "SELECT name FROM customers WHERE city IN ('Dublin', 'Cork')"),
    ("how many of our customers aren't from Germany?", "SELECT COUNT(*) FROM customers WHERE country <> 'Germany'"),
    ("first order ever, what date was that", "SELECT MIN(ordered_on) FROM orders"),
    ("cancelled orders in december 2025: how many", "SELECT COUNT(*) FROM orders WHERE status = 'cancelled' AND ordered_on LIKE '2025-12%'"),
    ("did sales go up? number of orders in 2024 and in 2025, by year", "SELECT substr(ordered_on, 1, 4), COUNT(*) FROM orders GROUP BY substr(ordered_on, 1, 4)"),
    ("customers whose first name is Ada", "SELECT name FROM customers WHERE name LIKE 'Ada %'"),
    ("where does Jana Almeida live? city will do", "SELECT city FROM customers WHERE name = 'Jana Almeida'"),
    ("how much is the paper lantern", "SELECT price FROM products WHERE name = 'paper lantern'"),
    ("chess sets, how many left?", "SELECT stock FROM products WHERE name = 'chess set'"),
    ("which category does the kite belong to", "SELECT c.name FROM categories c JOIN products p ON p.category_id = c.id WHERE p.name = 'kite'"),
    ("products per category?", "SELECT c.name, COUNT(*) FROM categories c JOIN products p ON p.category_id = c.id GROUP BY c.name"),
    ("avg price for each category, highest on top", "SELECT c.name, AVG(p.price) FROM categories c JOIN products p ON p.category_id = c.id GROUP BY c.name ORDER BY AVG(p.price) DESC"),
    ("show me pet products with prices, cheapest to dearest", "SELECT p.name, p.price FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name = 'Pets' ORDER BY p.price"),
    ("garden stuff thats running low (less than 15 left)", "SELECT p.name FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name = 'Garden' AND p.stock < 15"),
    ("who's our best customer by number of orders", "SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.id ORDER BY COUNT(*) DESC LIMIT 1"),
    ("and who spent the most money overall?", "SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id JOIN order_lines l ON l.order_id = o.id GROUP BY c.id ORDER BY SUM(l.quantity * l.unit_price) DESC LIMIT 1"),
    ("total revenue of the shop to date", "SELECT SUM(quantity * unit_price) FROM order_lines"),
    ("revenue without the cancelled orders", "SELECT SUM(l.quantity * l.unit_price) FROM order_lines l JOIN orders o ON o.id = l.order_id WHERE o.status <> 'cancelled'"),
    ("how much money did we lose to cancelled orders in 2024, i.e. what were they worth", "SELECT SUM(l.quantity * l.unit_price) FROM order_lines l JOIN orders o ON o.id = l.order_id WHERE o.status = 'cancelled' AND o.ordered_on LIKE '2024%'"),
    ("what sold best by units, all time top 5", "SELECT p.name FROM products p JOIN order_lines l ON l.product_id = p.id GROUP BY p.id ORDER BY SUM(l.quantity) DESC LIMIT 5"),
    ("which products have we never sold even once", "SELECT name FROM products WHERE id NOT IN (SELECT product_id FROM order_lines)"),
    ("how many accounts have never ordered?", "SELECT COUNT(*) FROM customers WHERE id NOT IN (SELECT customer_id FROM orders)"),
    ("any products w/o a single review?", "SELECT name FROM products WHERE id NOT IN (SELECT product_id FROM reviews)"),
    ("products that average over 4.3 stars", "SELECT p.name FROM products p JOIN reviews r ON r.product_id = p.id GROUP BY p.id HAVING AVG(r.rating) > 4.3"),
    ("worst rated product (on average)?", "SELECT p.name FROM products p JOIN reviews r ON r.product_id = p.id GROUP BY p.id ORDER BY AVG(r.rating) LIMIT 1"),
    ("how many reviews has each rating, 5 stars first", "SELECT rating, COUNT(*) FROM reviews GROUP BY rating ORDER BY rating DESC"),
    ("who reviewed the most products? top 1", "SELECT c.name FROM customers c JOIN reviews r ON r.customer_id = c.id GROUP BY c.id ORDER BY COUNT(*) DESC LIMIT 1"),
    ("which product gets sent back most often", "SELECT p.name FROM products p JOIN returns r ON r.product_id = p.id GROUP BY p.id ORDER BY COUNT(*) DESC LIMIT 1"),
    ("names of things that came back damaged in 2025", "SELECT DISTINCT p.name FROM products p JOIN returns r ON r.product_id = p.id WHERE r.reason = 'damaged' AND r.returned_on LIKE '2025%'"),
    ("returns in november 24?", "SELECT COUNT(*) FROM returns WHERE returned_on LIKE '2024-11%'"),
    ("returns per category please", "SELECT g.name, COUNT(*) FROM returns r JOIN products p ON p.id = r.product_id JOIN categories g ON g.id = p.category_id GROUP BY g.name"),
    ("whats the turnover per country", "SELECT c.country, SUM(l.quantity * l.unit_price) FROM customers c JOIN orders o ON o.customer_id = c.id JOIN order_lines l ON l.order_id = o.id GROUP BY c.country"),
    ("which country brings in the most money", "SELECT c.country FROM customers c JOIN orders o ON o.customer_id = c.id JOIN order_lines l ON l.order_id = o.id GROUP BY c.country ORDER BY SUM(l.quantity * l.unit_price) DESC LIMIT 1"),
    ("how many orders did dutch customers place", "SELECT COUNT(*) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.country = 'Netherlands'"),
    ("Spanish customers, alphabetically", "SELECT name FROM customers WHERE country = 'Spain' ORDER BY name"),
    ("our three newest Irish customers?", "SELECT name FROM customers WHERE country = 'Ireland' ORDER BY joined_on DESC LIMIT 3"),
    ("how many portuguese people signed up in 2023", "SELECT COUNT(*) FROM customers WHERE country = 'Portugal' AND joined_on LIKE '2023%'"),
    ("city with the most customers", "SELECT city FROM customers GROUP BY city ORDER BY COUNT(*) DESC LIMIT 1"),
    ("cities where fewer than 5 customers live", "SELECT city FROM customers GROUP BY city HAVING COUNT(*) < 5"),
    ("cities with 15 customers or more, with the number", "SELECT city, COUNT(*) FROM customers GROUP BY city HAVING COUNT(*) >= 15"),
    ("orders on 2025-05-22, give me ids", "SELECT id FROM orders WHERE ordered_on = '2025-05-22'"),
    ("how many orders came in on weekends... no wait, just the ones from august 2024", "SELECT COUNT(*) FROM orders WHERE ordered_on LIKE '2024-08%'"),
    ("orders from the last quarter of 2025, how many?", "SELECT COUNT(*) FROM orders WHERE ordered_on >= '2025-10-01' AND ordered_on <= '2025-12-31'"),
    ("busiest month of 2024 (most orders)?", "SELECT substr(ordered_on, 1, 7) FROM orders WHERE ordered_on LIKE '2024%' GROUP BY substr(ordered_on, 1, 7) ORDER BY COUNT(*) DESC LIMIT 1"),
    ("busiest single day ever, by orders", "SELECT ordered_on FROM orders GROUP BY ordered_on ORDER BY COUNT(*) DESC LIMIT 1"),
    ("monthly number of returns for 2025", "SELECT substr(returned_on, 1, 7), COUNT(*) FROM returns WHERE returned_on LIKE '2025%' GROUP BY substr(returned_on, 1, 7)"),
    ("before march 2024, how many reviews had been written", "SELECT COUNT(*) FROM reviews WHERE written_on < '2024-03-01'"),
    ("after 1 september 2025, which customers joined? names", "SELECT name FROM customers WHERE joined_on > '2025-09-01'"),
    ("how many orders were not paid by card", "SELECT COUNT(*) FROM orders WHERE payment <> 'card'"),
    ("paypal or voucher orders from 2024, count", "SELECT COUNT(*) FROM orders WHERE payment IN ('paypal', 'voucher') AND ordered_on LIKE '2024%'"),
    ("most popular way to pay among french buyers?", "SELECT o.payment FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.country = 'France' GROUP BY o.payment ORDER BY COUNT(*) DESC LIMIT 1"),
    ("how many different customers ordered something in 2025?", "SELECT COUNT(DISTINCT customer_id) FROM orders WHERE ordered_on LIKE '2025%'"),
    ("ids of orders with more than 3 different items", "SELECT order_id FROM order_lines GROUP BY order_id HAVING COUNT(*) > 3"),
    ("largest order by value, which id?", "SELECT order_id FROM order_lines GROUP BY order_id ORDER BY SUM(quantity * unit_price) DESC LIMIT 1"),
    ("orders worth more than 900, ids", "SELECT order_id FROM order_lines GROUP BY order_id HAVING SUM(quantity * unit_price) > 900"),
    ("avg number of pieces per order line", "SELECT AVG(quantity) FROM order_lines"),
    ("on average how many lines does an order have", "SELECT AVG(n) FROM (SELECT COUNT(*) AS n FROM order_lines GROUP BY order_id)"),
    ("products sold below their current list price: how many order lines is that", "SELECT COUNT(*) FROM order_lines l JOIN products p ON p.id = l.product_id WHERE l.unit_price < p.price"),
    ("toys revenue 2025?", "SELECT SUM(l.quantity * l.unit_price) FROM order_lines l JOIN orders o ON o.id = l.order_id JOIN products p ON p.id = l.product_id JOIN categories g ON g.id = p.category_id WHERE g.name = 'Toys' AND o.ordered_on LIKE '2025%'"),
    ("sports units sold, all time", "SELECT SUM(l.quantity) FROM order_lines l JOIN products p ON p.id = l.product_id JOIN categories g ON g.id = p.category_id WHERE g.name = 'Sports'"),
    ("which category earned the least", "SELECT g.name FROM categories g JOIN products p ON p.category_id = g.id JOIN order_lines l ON l.product_id = p.id GROUP BY g.name ORDER BY SUM(l.quantity * l.unit_price) LIMIT 1"),
    ("customers in Austria who returned something", "SELECT DISTINCT c.name FROM customers c JOIN orders o ON o.customer_id = c.id JOIN returns r ON r.order_id = o.id WHERE c.country = 'Austria'"),
    ("has anyone from Verona bought from us? how many orders", "SELECT COUNT(*) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.city = 'Verona'"),
    ("who never wrote a review but lives in Utrecht", "SELECT name FROM customers WHERE city = 'Utrecht' AND id NOT IN (SELECT customer_id FROM reviews)"),
    ("kitchen things rated 5 at least once", "SELECT DISTINCT p.name FROM products p JOIN categories g ON g.id = p.category_id JOIN reviews r ON r.product_id = p.id WHERE g.name = 'Kitchen' AND r.rating = 5"),
    ("avg rating for lighting products", "SELECT AVG(r.rating) FROM reviews r JOIN products p ON p.id = r.product_id JOIN categories g ON g.id = p.category_id WHERE g.name = 'Lighting'"),
    ("average stars by category", "SELECT g.name, AVG(r.rating) FROM reviews r JOIN products p ON p.id = r.product_id JOIN categories g ON g.id = p.category_id GROUP BY g.name"),
    ("what share of orders is cancelled? as a fraction", "SELECT AVG(status = 'cancelled') FROM orders"),
    ("products dearer than the average product, how many", "SELECT COUNT(*) FROM products WHERE price > (SELECT AVG(price) FROM products)"),
    ("same price as the desk lamp or cheaper: how many products", "SELECT COUNT(*) FROM products WHERE price <= (SELECT price FROM products WHERE name = 'desk lamp')"),
    ("2nd cheapest product?", "SELECT name FROM products ORDER BY price LIMIT 1 OFFSET 1"),
    ("furniture names in alphabetical order", "SELECT p.name FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name = 'Furniture' ORDER BY p.name"),
    ("how many garden or pet products are there", "SELECT COUNT(*) FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name IN ('Garden', 'Pets')"),
    ("office supplies that cost 20 to 40, with price", "SELECT p.name, p.price FROM products p JOIN categories c ON c.id = p.category_id WHERE c.name = 'Office' AND p.price BETWEEN 20 AND 40"),
    ("list the ids of orders nobody has shipped yet from before june 2024 (pending ones)", "SELECT id FROM orders WHERE status = 'pending' AND ordered_on < '2024-06-01'"),
    ("when was the last return because of wrong size", "SELECT MAX(returned_on) FROM returns WHERE reason = 'wrong size'"),
    ("number of orders from customers who joined in 2022", "SELECT COUNT(*) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.joined_on LIKE '2022%'"),
    ("tell me the total number of five star ratings the cat tree has", "SELECT COUNT(*) FROM reviews r JOIN products p ON p.id = r.product_id WHERE p.name = 'cat tree' AND r.rating = 5"),
    ("which german towns have ordered most, number of orders per city, most first, ties alphabetical", "SELECT c.city, COUNT(*) FROM customers c JOIN orders o ON o.customer_id = c.id WHERE c.country = 'Germany' GROUP BY c.city ORDER BY COUNT(*) DESC, c.city"),
    ("units sold per month in 2025", "SELECT substr(o.ordered_on, 1, 7), SUM(l.quantity) FROM orders o JOIN order_lines l ON l.order_id = o.id WHERE o.ordered_on LIKE '2025%' GROUP BY substr(o.ordered_on, 1, 7)"),
    ("how many customers bought furniture", "SELECT COUNT(DISTINCT o.customer_id) FROM orders o JOIN order_lines l ON l.order_id = o.id JOIN products p ON p.id = l.product_id JOIN categories g ON g.id = p.category_id WHERE g.name = 'Furniture'"),
]  # fmt: skip


def test_values() -> dict[str, list[str]]:
    """Return the values of the slots; cities, products and customers are not in `draws.py`."""
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
            "month": [f"{year}-{month:02}" for year in (2024, 2025) for month in (2, 4, 7, 9, 11)],
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
    values = test_values()
    for query, *phrasings in TEMPLATES:
        slots = sorted(set(re.findall(r"{(\w+)}", query)))
        seen: set[str] = set()
        for number in range(4 * NUM_OF_A_TEMPLATE):
            filled = {slot: draw.choice(values[slot]) for slot in slots}
            filled |= {"category_low": filled.get("category", "").lower()}
            if "month" in filled:
                year, month = filled["month"].split("-")
                filled["month_words"] = f"{MONTHS[int(month) - 1]} {year}"
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
        if order:
            columns = len(rows[0])
            for way in ("ASC", "DESC"):
                other = f"{query[: order.end(1)]}, {columns} {way}{order[2] or ''}"
                key = "p.id" if "GROUP BY p.id" in query else "c.id"
                if f"GROUP BY {key}" in query or not re.search(r"GROUP BY|DISTINCT", query):
                    other = other.replace(f", {columns} {way}", f", 1 {way}")
                if connection.execute(other).fetchall() != rows:
                    return "an order that ties leave open"
    result = repr(sorted(map(repr, rows)))
    if result in results:
        return f"the same result as {results[result]}"
    results[result] = query
    return None


def main() -> None:
    """Write the questions, people's first, and print what was left out."""
    results: dict[str, str] = {}
    kept: list[tuple[str, str]] = []
    for question, query in PEOPLE:
        reason = why_not(query, results)
        print(*([] if reason is None else [f"{question}: {reason}\n"]), sep="", end="")
        kept += [] if reason else [(question, query)]
    num_people = len(kept)
    counts: dict[str, int] = {}
    for question, query in templated(random.Random(SEED)):
        shape = re.sub(r"'[^']*'|\d+", "?", query)
        if counts.get(shape, 0) < NUM_OF_A_TEMPLATE and why_not(query, results) is None:
            counts[shape] = counts.get(shape, 0) + 1
            kept.append((question, query))
    print(f"{num_people} as people type them, {len(kept) - num_people} of {len(counts)} templates")
    lines = (json.dumps({"prompt": q, "answer": a}, ensure_ascii=False) for q, a in kept)
    (HERE / "references.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
