"""The paper's contribution, a gated shift of the previous hidden state, as a patch on a model."""
