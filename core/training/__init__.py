"""Trainers: one loop, one checkpoint format, one metrics layer; a task per thing that is trained.

Nothing is imported here, so that a configuration can be read without importing torch.
"""
