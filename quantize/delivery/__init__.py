"""A run's student where users want it: in a directory for a tool, or on a hub."""
