"""The search for a gate that beats its controls: one protocol for all candidates, the best confirmed on fresh seeds."""
