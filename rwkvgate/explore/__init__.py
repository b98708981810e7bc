"""Looking at the gate: traces of its values, and pictures of them."""
