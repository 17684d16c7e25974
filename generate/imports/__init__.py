"""`potstill import`: traces of other tools as a file of prompts, and a page about them."""
