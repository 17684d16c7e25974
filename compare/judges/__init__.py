"""Judges of pairs of answers, and the controls that test them."""
