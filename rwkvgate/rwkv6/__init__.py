"""RWKV-6 (Finch) as `transformers` sees a model: configuration, WKV operator, state, network, checkpoints and
tokenizer."""
