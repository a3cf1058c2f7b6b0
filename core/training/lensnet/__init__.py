"""LensNet: task, dataset, teacher, losses, rollouts, held-out figures."""
