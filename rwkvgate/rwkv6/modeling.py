"""RWKV-6 (Finch) as a `transformers` model, under the parameter names of the hub's checkpoints.

Equations: Peng et al. 2024, arXiv 2404.05892, section 4. Unlike the modelling code on the hub, gradients flow through
the WKV state, attention masks are obeyed, the state is never changed in place, and no evaluation runs a Python loop
over tokens.

In half precision only the matrix products are in that type; the residual stream, the normalisations, decay and WKV are
float32. So nothing overflows in float16, and the hub's rescaling of every sixth layer, which would change a gate's
input, is not needed.
"""

from __future__ import annotations

from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from rwkvgate.rwkv6.arguments import check_inputs, check_kept, check_label_shapes, check_labels, known_options
from rwkvgate.rwkv6.block import Rwkv6Block
from rwkvgate.rwkv6.checkpoints import load_checkpoint, read_weights, remove_outdated
from rwkvgate.rwkv6.configuration import Rwkv6Config
from rwkvgate.rwkv6.files import digest, write_files
from rwkvgate.rwkv6.hub import is_there
from rwkvgate.rwkv6.initialization import init_attention, init_feed_forward, init_head
from rwkvgate.rwkv6.layouts import GATE, CheckpointError, sizes_of, to_hub_layout
from rwkvgate.rwkv6.linear import Linear
from rwkvgate.rwkv6.loss import IGNORED, next_token_loss
from rwkvgate.rwkv6.mixing import LayerNorm, Rwkv6Attention, Rwkv6FeedForward
from rwkvgate.rwkv6.precision import widened
from rwkvgate.rwkv6.prefill import WINDOW, read_ahead, unread
from rwkvgate.rwkv6.state import LayerState, Rwkv6State, check_state
from rwkvgate.rwkv6.token_shift import TokenShift, real_tokens

LOSS_OPTIONS = ("num_items_in_batch", "ignore_index", "shift_labels")
"""Options of transformers' causal loss."""
STEP_OPTIONS = TransformersKwargs.__optional_keys__ - {"position_ids"} | {"logits_to_keep"}
"""Arguments that `generate` hands to every forward pass; `position_ids` are looked at once, and change nothing."""


class Rwkv6PreTrainedModel(PreTrainedModel):
    """Base of `Rwkv6Model` and `Rwkv6ForCausalLM`: initialisation, loading and saving."""

    config_class = Rwkv6Config
    config: Rwkv6Config
    base_model_prefix = "rwkv"
    _input_embed_layer = "embeddings"
    _no_split_modules = ["Rwkv6Block"]
    _is_stateful = True
    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        layers = self.config.num_hidden_layers
        if isinstance(module, Rwkv6Attention):
            init_attention(module, module.layer, layers)
        elif isinstance(module, Rwkv6FeedForward):
            init_feed_forward(module, module.layer, layers)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -1e-4, 1e-4)
        elif module is getattr(self, "head", None):
            # By identity: transformers does not call this for a module without parameters of its own, as this one is.
            init_head(module)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a complete checkpoint, from a folder or by its name on the hub, in evaluation mode.

        The files are safetensors or pickles of tensors, in one file or in shards, under the hub's, BlinkDL's or
        flash-linear-attention's names. Code that comes with them is never run, whatever the options. Sizes that the
        configuration lacks are read off the weights.

        Args:
            pretrained_model_name_or_path: the folder or name; None with `config` and `state_dict`, weights in memory.
            **kwargs: options of transformers, such as dtype (default: the file's), device_map, revision (default: a
                fixed commit for the paper's model, else the latest), token, cache_dir, local_files_only. Keys of the
                configuration override it. In flash-linear-attention's layout head_size_divisor is 1 where the
                configuration has none, as that library computes; 8 suits a conversion of BlinkDL's weights.

        Raises:
            CheckpointError: no such checkpoint, a failed download, a damaged file, code in a pickle, or weights that
                are missing, unknown, of another shape, not finite, or a gate's without its config (see
                `load_gate`). An `OSError`.
            HubUnreachableError: the hub gave no answer and the cache lacks the files. A `CheckpointError`.
            ValueError: an option that would leave weights unread or at random.
        """
        return load_checkpoint(cls, super().from_pretrained, pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """Write configuration and weights as transformers does; of a patched model, its gates with their config too.

        After an error all is as it was. `from_pretrained` gives a patched model back; `save_gate` writes a gate alone.
        """
        gates = [gate for block in self.base_model.blocks for gate in block.gates]
        if gates:
            fields = gates[0].config.model_dump()
            setattr(self.config, GATE, fields | {"seal": digest(fields)})
        try:
            with write_files(save_directory) as fresh:
                super().save_pretrained(fresh, **kwargs)
                saved = {path.name for path in fresh.iterdir()}
            remove_outdated(Path(save_directory), saved)
        finally:
            self.config.__dict__.pop(GATE, None)


class Rwkv6Model(Rwkv6PreTrainedModel):
    """Embedding, blocks and the final LayerNorm."""

    def __init__(self, config: Rwkv6Config) -> None:
        if getattr(config, GATE, None) is not None:
            raise ValueError(
                f"the config holds {GATE}: it is a patched model's, which from_pretrained loads with its weights; for "
                f"another, delete config.{GATE} and call patch(model, ...)"
            )
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Rwkv6Block(config, i) for i in range(config.num_hidden_layers))
        self.ln_out = LayerNorm(config.hidden_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Rwkv6State | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the network over tokens that follow `past_key_values`.

        Args:
            input_ids: (batch, time); or `inputs_embeds`, (batch, time, channel), in its place.
            attention_mask: (batch, time or more), 0 at padding; its last `time` columns are used. Padding may be on
                either side: a row gives the results that it gives alone.
            past_key_values: the state to continue from. It is not changed.
            use_cache: return the state after the last token; default: config.use_cache, not in training nor in a
                replica of DataParallel.
            output_hidden_states: return the hidden states; default: config.output_hidden_states.
            **kwargs: return_dict, False for a tuple (default: config.return_dict); position_ids, which count on by one
                along a row and change nothing.

        Returns:
            `last_hidden_state`, (batch, time, channel), float32 at least; `past_key_values`, a `Rwkv6State`; and on
            request `hidden_states`: the input of each block, and the last hidden state.

        Raises:
            ValueError: no tokens, ids beyond the vocabulary, a mask or state of another shape, a state from a patched
                model given to an unpatched one or the other way round, several documents in one row, a state in
                training under checkpointing that would lose its gradient, or an argument that has no use here.
        """
        known_options(kwargs, attention_mask)
        check_inputs(input_ids, inputs_embeds, attention_mask, self.config)
        hidden = widened(self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds)  # (B, T, C)
        if use_cache is None:  # DataParallel cannot gather the states of its replicas
            use_cache = self.config.use_cache and not (self.training or getattr(self, "_is_replica", False))
        past = self.layer_states(past_key_values, hidden.shape[0])
        learned = torch.is_grad_enabled() and bool(use_cache or (past_key_values and past_key_values.requires_grad))
        if learned and any(block.is_reentrant for block in self.blocks):
            raise ValueError(
                "checkpointing with use_reentrant=True passes no gradient from one state to the next; give "
                "gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        seen = past_key_values.seen if past_key_values else None
        shift = TokenShift(real_tokens(attention_mask, *hidden.shape[:2]), seen)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        every, layers = [], []
        for block, layer_state in zip(self.blocks, past, strict=True):
            if output_hidden_states:
                every.append(hidden)
            hidden, layer_state = block(hidden, shift, layer_state)  # (B, T, C)
            layers.append(layer_state)
        hidden = self.ln_out(hidden)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=Rwkv6State(layers, shift.seen_after(hidden)) if use_cache else None,
            hidden_states=(*every, hidden) if output_hidden_states else None,
        )

    def layer_states(self, state: Rwkv6State | None, batch: int) -> list[LayerState] | list[None]:
        """The states of the blocks; None for each at the start of a text.

        Raises:
            ValueError: the state is not one of this model and batch.
        """
        if state is None:
            return [None] * len(self.blocks)
        check_state(state, batch, self.config, [block.gate_rows for block in self.blocks])
        return state.layers


class Rwkv6ForCausalLM(Rwkv6PreTrainedModel, GenerationMixin):
    """RWKV-6 with a language-modelling head: training, generation and everything else that transformers offers.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> config = Rwkv6Config(vocab_size=50, hidden_size=64, num_hidden_layers=2)
        >>> model = Rwkv6ForCausalLM(config).eval()  # or Rwkv6ForCausalLM.from_pretrained(folder or name)
        >>> ids = torch.tensor([[3, 1, 4, 1, 5]])  # (batch, time)
        >>> out = model(ids, labels=ids, use_cache=True)
        >>> out.logits.shape, out.loss.shape  # (batch, time, vocabulary), and a scalar in nats per token
        (torch.Size([1, 5, 50]), torch.Size([]))
        >>> model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None).shape
        torch.Size([1, 8])
    """

    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init__(self, config: Rwkv6Config) -> None:
        super().__init__(config)
        self.rwkv = Rwkv6Model(config)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The head, (vocabulary, channel)."""
        return self.head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the head."""
        self.head = value

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # Without this a subclass whose name lacks "rwkv" would be handed an attention cache.
        return False

    def _prepare_model_inputs(self, *args: Any, **kwargs: Any) -> Any:
        # transformers looks at the last token of a prompt before it calls the model.
        inputs, name, options = super()._prepare_model_inputs(*args, **kwargs)
        given = {"input_ids": None, "inputs_embeds": None} | {name: inputs}
        check_inputs(**given, attention_mask=None, config=self.config)
        return inputs, name, options

    def _prepare_attention_mask_for_generation(self, inputs_tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        # transformers would guess that every token 0 is padding, unless it ends a text. A text without a mask has none.
        return torch.ones(inputs_tensor.shape[:2], dtype=torch.long, device=inputs_tensor.device)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Rwkv6State | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The model's inputs for one step of `generate`.

        The first step reads the prompt. With a state, prompt and mask are those of the whole text, as transformers
        has it, and what the state has read is left out; a prompt shorter than the mask holds the new tokens only. A
        prompt longer than a window is read here, up to its last window, unless hidden states are asked for. Later steps
        read the token just chosen, or without a cache the whole text.

        Raises:
            ValueError: a text that does not fit the state (see `unread`), a state without a cache, and whatever
                `Rwkv6Model.forward` refuses.
        """
        use_cache = kwargs.get("use_cache", True)
        if past_key_values is not None and not use_cache:
            raise ValueError("use_cache is False; with past_key_values it must be True")
        prompt = input_ids
        if is_first_iteration:
            prompt = input_ids if inputs_embeds is None else inputs_embeds
            known_options({"position_ids": kwargs.get("position_ids")}, attention_mask)
            if attention_mask is not None and not bool(attention_mask[:, -1:].all()):
                raise ValueError("attention_mask ends in padding; prompts must be padded on the left")
            # A mask without padding is not handed on. Then a length is given if the prompt is the whole text.
            if past_key_values is not None and (attention_mask is not None or next_sequence_length is not None):
                prompt, attention_mask = unread(self.rwkv, prompt, attention_mask, past_key_values)
            if use_cache and not kwargs.get("output_hidden_states"):
                prompt, past_key_values = read_ahead(self.rwkv, prompt, attention_mask, past_key_values, window=WINDOW)
        elif past_key_values is not None:
            prompt = input_ids[:, -1:]
        return {
            "logits_to_keep": 1,
            **{name: kwargs[name] for name in STEP_OPTIONS & kwargs.keys()},
            "input_ids" if prompt.dim() == 2 else "inputs_embeds": prompt,
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
        }

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Rwkv6State | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        skip_logits: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits over the next token, (batch, time, vocabulary). Other arguments are those of `Rwkv6Model.forward`.

        Args:
            labels: (batch, time), token ids with -100 where nothing is scored; shifted by one inside.
            logits_to_keep: compute the logits of that many last positions only, or of the positions in a tensor; 0
                keeps all.
            skip_logits: return the loss alone, `logits` None, for a fraction of the time and memory; default: in
                training, where labels are given.
            **kwargs: `num_items_in_batch`, `ignore_index` and `shift_labels`, options of transformers' causal loss,
                or those of a `loss_function` of your own.

        Returns:
            `logits` in the type of the head's weight, `loss`, a mean in nats per token, and the state.

        Raises:
            ValueError: labels that are no tokens, `shift_labels` without labels, positions beyond the text,
                `skip_logits` where the loss needs logits, and whatever `Rwkv6Model.forward` refuses.
        """
        known = LOSS_OPTIONS if self.loss_function is ForCausalLMLoss else kwargs
        options = known_options(kwargs, attention_mask, known)
        check_kept(logits_to_keep, input_ids if inputs_embeds is None else inputs_embeds)
        targets = {"labels": labels, "shift_labels": options.get("shift_labels")} if known is LOSS_OPTIONS else {}
        check_labels(targets, self.config.vocab_size, options.get("ignore_index", IGNORED))
        labels = labels.long() if targets and labels is not None else labels
        if skip_logits and (labels is None or not self._has_plain_loss(logits_to_keep, options)):
            raise ValueError("skip_logits needs labels, a plain linear head, and no other option of loss or logits")
        if skip_logits is None:
            skip_logits = self.training and labels is not None and self._has_plain_loss(logits_to_keep, options)
        outputs = self.rwkv(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden, loss, logits = outputs.last_hidden_state.to(self.head.weight.dtype), None, None
        if skip_logits and labels is not None:
            loss = next_token_loss(hidden, self.head.weight, labels, options.get("num_items_in_batch"))
        else:
            logits = self.head(hidden[:, positions])  # (B, positions, vocabulary)
            if labels is not None:
                check_label_shapes(targets, logits.shape[:2])
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    def _has_plain_loss(self, logits_to_keep: int | Tensor, options: dict[str, Any]) -> bool:
        """Whether the loss depends on hidden states and head weight alone: no adapter, hook or other loss."""
        # accelerate, which brings offloaded weights in for a call, puts a forward of its own on the module.
        called = self.head._forward_hooks or self.head._forward_pre_hooks or "forward" in vars(self.head)
        plain_head = type(self.head) in (Linear, nn.Linear) and not called
        all_kept = isinstance(logits_to_keep, int) and logits_to_keep == 0
        plain_loss = self.loss_function is ForCausalLMLoss and options.keys() <= {"num_items_in_batch"}
        return plain_head and all_kept and plain_loss


def load_pth(path: str | PathLike[str], dtype: torch.dtype | str | None = None, **options: Any) -> Rwkv6ForCausalLM:
    """A model from BlinkDL's `.pth`, its sizes read off the weights, in evaluation mode.

    Args:
        path: the file; a pickle of tensors by BlinkDL's names.
        dtype: of the weights in memory; default: the file's.
        **options: of `from_pretrained`, such as device_map.

    Raises:
        CheckpointError: there is no such file, or it is not a complete RWKV-6; code in it is not run.
    """
    path = Path(expanduser(path))  # noqa: PTH111 - Path's own raises where a user is unknown
    if not is_there(path):
        raise CheckpointError(f"there is no file {str(path)!r}" if "\0" in str(path) else f"there is no file {path}")
    weights = to_hub_layout(read_weights(path), str(path))
    config = Rwkv6Config(**sizes_of(weights, str(path)))
    model = Rwkv6ForCausalLM.from_pretrained(path, config=config, state_dict=weights, dtype=dtype, **options)
    return cast(Rwkv6ForCausalLM, model)


AutoModel.register(Rwkv6Config, Rwkv6Model, exist_ok=True)
AutoModelForCausalLM.register(Rwkv6Config, Rwkv6ForCausalLM, exist_ok=True)
