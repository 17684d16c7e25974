"""`potstill review`: a page on which people decide about answers, and what becomes of it."""
