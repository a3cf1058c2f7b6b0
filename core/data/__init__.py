"""Datasets: readers, the tokenizer, Arrow shards of token slices, synthetic recall text.

Nothing is imported here, so that a reader of shards does not pay for the tokenizer.
"""
