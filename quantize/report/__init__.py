"""The report on the finished files: a model card with tables and a plot."""
