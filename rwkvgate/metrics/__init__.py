"""Likelihood, generated text, overlap, time, memory and statistics, and the `evaluate` modules around them."""
