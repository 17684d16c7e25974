CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, ordered_on TEXT, total REAL);
INSERT INTO customers VALUES (1, 'Ada', 'Lyon'), (2, 'Bo', 'Oslo'), (3, 'Cem', 'Lyon'), (4, 'Dee', 'Rome');
INSERT INTO orders VALUES (1, 1, '2026-01-03', 19.5), (2, 1, '2026-02-11', 40.0), (3, 2, '2026-02-11', 7.25),
  (4, 3, '2026-03-01', 120.0), (5, 3, '2026-03-02', 15.0);
