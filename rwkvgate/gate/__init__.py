"""The paper's contribution: a gated shift of the previous hidden state on every block's output."""
