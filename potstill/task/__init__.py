"""A student's task: one job with instructions, examples, tools, known answers and metrics."""
