"""How near the student is while it trains: figures, answers, curves."""
