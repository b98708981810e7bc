"""The search for a gate worth having: every candidate under one protocol, the best confirmed on fresh seeds."""
