"""Student versus teacher: sizes, speed, fidelity, answers side by side, one report."""
