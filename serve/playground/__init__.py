"""The playground: a page to try, compare and watch the served models."""
