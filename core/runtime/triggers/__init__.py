"""When a refocus runs besides the one at each complete block: one rule a file."""
