"""Models in this process, one backend per name."""
