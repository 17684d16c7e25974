"""`potstill init`: a task's files, from a template or from examples."""
