"""Teachers: in this process, on a cluster, or behind an API."""
