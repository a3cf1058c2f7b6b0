"""Synthetic recall text: facts planted in real text and asked for later."""
