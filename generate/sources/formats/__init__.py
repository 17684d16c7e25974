"""Readers of rows: one file per schema, all of them in `registry`."""
