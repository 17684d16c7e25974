"""Tools in a chat: how they are rendered, and how calls are read in what a model wrote.

Sampling, training, comparing and serving all use these modules, so that a student is asked with the
text it was trained on, and what it was trained to write is what the server parses.
"""
