"""Index keys of a GistNet: task, dataset, held-out figures."""
