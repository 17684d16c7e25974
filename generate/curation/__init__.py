"""Which prompts are asked and which conversations are kept: named filters, each with its counts."""
