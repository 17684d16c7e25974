"""The finished data set: filtered conversations with a card and a summary page."""
