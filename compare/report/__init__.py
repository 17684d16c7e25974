"""What the user reads: report.json, the page, the table on stdout. Measures nothing."""
