"""Comparisons over arms and seeds, and their tables and figures."""
