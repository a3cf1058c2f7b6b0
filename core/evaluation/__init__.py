"""Evaluation against controls at the same budget: recall, NLL, and the suite of both."""
