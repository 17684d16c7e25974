"""From judgments to a verdict: checks of judges, win rates with bounds, tests."""
