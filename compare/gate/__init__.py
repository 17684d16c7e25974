"""The gate: what a student must show besides its metric, and the suites of prompts for it."""
