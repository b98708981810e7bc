"""Configuration of RWKV-6, with the keys of the hub's checkpoints."""

# Annotations are not postponed here: `strict` checks values against them, and passes over those that are text.

from os import PathLike
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "head_size", "head_size_divisor")
OPTIONAL_SIZES = ("attention_hidden_size", "intermediate_size", "time_mix_rank", "time_decay_rank")
LARGEST = 2**31 - 1
"""The largest size, token id and number of any kind; few are that large, and none beyond can be meant."""
DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Names of the types of weights."""
LABELS = 2**16
"""The most labels of a classifier."""
NOT_TAKEN_OVER = (
    *("auto_map", "custom_pipelines", "transformers_weights", "use_kernels", "kernel_config", "distributed_config"),
    *("per_layer_config", "attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)
"""Keys that are dropped: they name code, kernels or files to fetch and run, and RWKV-6 has no attention or experts."""
BUILT_IN = ("eager", "sdpa")
"""The values under which such a key stays, as transformers' own tools set it: they fetch nothing and change nothing."""


def check_dtype(dtype: Any, *others: str) -> None:
    """Refuse a type that no weight has; None and the `others` pass.

    Raises:
        ValueError: names what is allowed.
    """
    if dtype is not None and str(dtype).removeprefix("torch.") not in (*DTYPES, *others):
        raise ValueError(f"dtype is {dtype!r}; it must be {', '.join((*DTYPES, *others))}")


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

    Keys that name code or kernels to fetch (`NOT_TAKEN_OVER`) are dropped.

    Raises:
        ValueError: a size below 1 or beyond 31 bits, an `attention_hidden_size` that `head_size` does not divide, a
            `layer_norm_epsilon` that is not between 0 and 1, a type that no weight has, or an impossible number of
            another key. The hub's library wraps it in its own error.

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
        self._check_numbers(kwargs)
        for name in NOT_TAKEN_OVER:
            if kwargs.get(name) not in BUILT_IN:
                kwargs.pop(name, None)
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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any) -> Any:
        """The configuration of a folder, or of a repository on the hub; arguments are those of transformers.

        Raises:
            OSError: there is no config.json, or it is damaged.
            ValueError: an impossible value, as above.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (RecursionError, TypeError, AttributeError) as error:  # transformers words the other damages
            where = f"the config.json of {pretrained_model_name_or_path}"
            raise OSError(f"{where} is damaged, or no JSON object of a model's sizes: {error}") from None

    def _check_numbers(self, others: dict[str, Any]) -> None:
        """Raise a ValueError for a number that cannot be meant, in a field or among the `others`."""
        if self.eos_token_id == []:
            raise ValueError("eos_token_id is an empty list; it must be a token's number, several, or null for none")
        eos = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        whole = {name: getattr(self, name) for name in (*SIZES, *OPTIONAL_SIZES, "num_attention_heads")}
        whole |= {name: getattr(self, name) for name in ("bos_token_id", "pad_token_id", "rescale_every")}
        whole |= {f"eos_token_id {i}": token for i, token in enumerate(eos)}
        for name, value in whole.items():
            if value is not None and abs(value) > LARGEST:
                raise ValueError(f"{name} is {value}; it must be a whole number up to {LARGEST}")
        if not 0 < self.layer_norm_epsilon < 1:
            raise ValueError(f"layer_norm_epsilon is {self.layer_norm_epsilon}; it must be a number between 0 and 1")
        labels = others.get("num_labels")
        if labels is not None and not (isinstance(labels, int) and 0 <= labels <= LABELS):
            raise ValueError(f"num_labels is {labels}; it must be a whole number from 0 to {LABELS}")
        for dtype in (self.dtype, others.get("torch_dtype")):
            check_dtype(dtype)

    @property
    def group_norm_epsilon(self) -> float:
        """Epsilon of the per-head normalisation of the WKV output."""
        return float(self.layer_norm_epsilon * self.head_size_divisor**2)


AutoConfig.register("rwkv6", Rwkv6Config, exist_ok=True)
