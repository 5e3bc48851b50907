"""Prompts to numbers, the only way there is: tokens, prefix trees, batches, forwards, log-probabilities."""
