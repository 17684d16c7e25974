"""What live traffic leaves behind: answers, assignments, feedback, votes, judgments."""
