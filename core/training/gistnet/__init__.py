"""GistNet: task, dataset, held-out figures, the upper bound of one vector."""
