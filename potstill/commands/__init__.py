"""The verbs of the command line that belong to no room, and the options that all verbs share."""
