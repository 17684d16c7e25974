"""Sampling: the teacher answers the prompts, and its conversations go to Parquet parts."""
