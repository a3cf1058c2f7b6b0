"""The base model: task, dataset, held-out figures, average of weights."""
