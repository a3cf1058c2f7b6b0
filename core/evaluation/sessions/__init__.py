"""Sessions of an evaluation over one history, and what they share: windows, gists, searches."""
