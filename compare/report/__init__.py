"""The report for the user: the page, the table on stdout, sentences."""
