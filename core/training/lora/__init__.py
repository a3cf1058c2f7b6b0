"""A LoRA adapter of the base model: task, dataset, layers, held-out figures and guard."""
