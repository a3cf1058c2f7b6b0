"""The viewer's state: pure values and what commands do to them; nothing here imports Textual."""
