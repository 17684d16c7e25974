"""From judgments to a verdict: which judges count, win rates, their bounds, what they allow."""
