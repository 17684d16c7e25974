"""Sources of prompts: files, data sets, and the teacher itself."""
