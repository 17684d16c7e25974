"""What is said of the finished files: a card with a table and a picture."""
