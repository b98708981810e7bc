"""Measurement: likelihood, generated text, overlap with references, time, statistics, tables and figures.

Import the modules themselves; this file imports nothing, so that `import rwkvgate.evaluation` is free.
"""
