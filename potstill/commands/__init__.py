"""The verbs of the command line that belong to no stage, and the options that all verbs share."""
