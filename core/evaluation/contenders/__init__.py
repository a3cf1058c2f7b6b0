"""What is compared: the engine with its lenses, windows of raw blocks, the full history."""
