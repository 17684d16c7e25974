"""What a student is for: one job with instructions, examples, tools, known answers and metrics."""
