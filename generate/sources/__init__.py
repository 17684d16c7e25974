"""Where prompts come from: files, data sets, and the teacher itself."""
