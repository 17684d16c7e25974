"""The routes, one file per family of endpoints; each has a `router`."""
