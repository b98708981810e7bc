"""Metrics of language models: likelihood, overlap, latency, cost, probes of memory, statistics, `evaluate` modules."""
