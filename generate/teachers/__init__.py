"""Who answers: the teacher in this process, on a cluster, or behind an API."""
