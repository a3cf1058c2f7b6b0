"""The loop that all trainers share: steps, schedule, optimizer, checkpoints, metrics."""
