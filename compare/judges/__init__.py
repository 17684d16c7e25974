"""Who says which of two answers is better, and whether a judge can be believed."""
