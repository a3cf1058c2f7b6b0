"""GistNet, LensNet and the base model's adapter trained in turn, each step kept or rolled back."""
