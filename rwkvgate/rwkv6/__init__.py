"""RWKV-6 (Finch) for `transformers`: configuration, WKV operator, state, network, checkpoints and tokenizer."""
