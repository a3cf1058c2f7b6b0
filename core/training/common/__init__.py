"""What several trainers read: the frozen base model, tilings, gists as inputs, copied tokens."""
