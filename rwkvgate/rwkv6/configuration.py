"""Configuration of RWKV-6, with the keys of the hub's checkpoints."""

# Annotations are not postponed here: `strict` checks values against them, and passes over those that are text.

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "head_size", "head_size_divisor")
OPTIONAL_SIZES = ("attention_hidden_size", "intermediate_size", "time_mix_rank", "time_decay_rank")


@strict
class Rwkv6Config(PreTrainedConfig):
    """Sizes of an RWKV-6 network.

    Keys and defaults are those of the hub's `rwkv6` configurations, with three corrections:

    - `num_attention_heads` is always 64 there; here it is `attention_hidden_size / head_size`.
    - `intermediate_size` None means `floor(3.5 * hidden_size / 32) * 32`; a number is used as it is.
    - `rescale_every`, which avoids overflow in float16 and changes nothing in exact arithmetic, is only kept for
      files to be written back as they were read; this network never rescales.

    The ranks of the two low-rank maps are fixed there, at 32 and 64 (64 and 128 where `hidden_size` is 4,096); here
    they are keys, with those defaults.

    Raises:
        ValueError: a size below 1, or an `attention_hidden_size` that `head_size` does not divide. The hub's library
            wraps it in its own error.

    Example:
        >>> config = Rwkv6Config(hidden_size=2048, num_hidden_layers=24)  # the paper's base, 1.6 B parameters
        >>> config.num_attention_heads, config.intermediate_size, config.time_mix_rank
        (32, 7168, 32)
    """

    model_type = "rwkv6"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 65536
    hidden_size: int = 768
    num_hidden_layers: int = 24
    attention_hidden_size: int | None = None
    num_attention_heads: int | None = None
    head_size: int = 64
    head_size_divisor: int = 8
    intermediate_size: int | None = None
    time_mix_rank: int | None = None
    time_decay_rank: int | None = None
    layer_norm_epsilon: float = 1e-5
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = 0
    rescale_every: int = 6
    tie_word_embeddings: bool = False
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        for name in (*SIZES, *OPTIONAL_SIZES):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        wide = self.hidden_size == 4096
        self.attention_hidden_size = self.attention_hidden_size or self.hidden_size
        self.intermediate_size = self.intermediate_size or max(32, int(3.5 * self.hidden_size) // 32 * 32)
        self.time_mix_rank = self.time_mix_rank or (64 if wide else 32)
        self.time_decay_rank = self.time_decay_rank or (128 if wide else 64)
        if self.attention_hidden_size % self.head_size:
            raise ValueError(
                f"attention_hidden_size is {self.attention_hidden_size}; "
                f"it must be a multiple of head_size, {self.head_size}"
            )
        self.num_attention_heads = self.attention_hidden_size // self.head_size
        super().__post_init__(**kwargs)

    @property
    def group_norm_epsilon(self) -> float:
        """Epsilon of the per-head normalisation of the WKV output."""
        return float(self.layer_norm_epsilon * self.head_size_divisor**2)


AutoConfig.register("rwkv6", Rwkv6Config, exist_ok=True)
