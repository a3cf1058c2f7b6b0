"""What is measured: recall, NLL, single gists, overhead; the texts and tasks for it."""
