"""Prefill in windows, with the state carried between them, so that memory does not grow with the prompt.

The state is of fixed size, and each window begins where the last one ended: the results are those of one forward pass,
to rounding. `generate` reads long prompts so by itself. Its own option `prefill_chunk_size` cannot do this: it needs a
cache before the first token, and a fresh model has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwkvgate.rwkv6.precision import widened
from rwkvgate.rwkv6.state import Rwkv6State
from rwkvgate.rwkv6.token_shift import real_tokens

if TYPE_CHECKING:
    from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM, Rwkv6Model

WINDOW = 1024
"""Tokens in a window: matrix products at full speed, in under 300 MiB per row for 2,048 channels."""


@torch.no_grad()
def prefill(
    model: Rwkv6ForCausalLM,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    window: int = WINDOW,
    past_key_values: Rwkv6State | None = None,
) -> tuple[Tensor, Rwkv6State]:
    """Read a prompt of any length, at most `window` tokens at a time.

    Args:
        model: the network.
        input_ids: (batch, time).
        attention_mask: (batch, time or more), 0 at padding, which stands on the left; its last `time` columns
            are used.
        window: tokens per forward pass, at most.
        past_key_values: the state to continue from. It is not changed.

    Returns:
        The logits after the last token, (batch, vocabulary), and the state to go on from.

    Raises:
        ValueError: `window` is below 1, the last column of the mask holds padding, or what the model refuses.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=50, hidden_size=64, num_hidden_layers=2)).eval()
        >>> ids = torch.arange(40).view(1, 40)
        >>> logits, state = prefill(model, ids, window=16)
        >>> torch.allclose(logits, model(ids).logits[:, -1], atol=1e-5)
        True
    """
    if window < 1:
        raise ValueError(f"window is {window}; it must be at least 1")
    if attention_mask is not None and not bool(attention_mask[:, -1:].all()):
        raise ValueError("attention_mask ends in padding; prompts must be padded on the left")
    rest, state = read_ahead(model.rwkv, input_ids, attention_mask, past_key_values, window=window)
    output = model(
        input_ids=rest,
        attention_mask=attention_mask,
        past_key_values=state,
        use_cache=True,
        logits_to_keep=1,
        return_dict=True,
    )
    return output.logits[:, -1], output.past_key_values


@torch.no_grad()
def read_ahead(
    base: Rwkv6Model, prompt: Tensor, attention_mask: Tensor | None, state: Rwkv6State | None, *, window: int
) -> tuple[Tensor, Rwkv6State | None]:
    """Read all of a prompt but its last window.

    Args:
        prompt: token ids (batch, time), or embeddings (batch, time, channel).
        attention_mask: (batch, time or more), or None. Padding may stand anywhere.
        state: the state before the prompt.

    Returns:
        The last window, unread, and the state before it: `state` itself where the prompt is short.

    Raises:
        ValueError: the mask is of another shape.
    """
    if prompt.dim() < 2 or prompt.shape[1] <= window:
        return prompt, state
    mask = real_tokens(attention_mask, *prompt.shape[:2])
    ahead = prompt.shape[1] - window
    mask = None if mask is None else mask[:, :ahead]
    for _, output in in_windows(base, prompt[:, :ahead], mask, window=window, state=state, return_dict=True):
        state = output.past_key_values
    return prompt[:, ahead:], state


@torch.no_grad()
def unread(base: Rwkv6Model, prompt: Tensor, attention_mask: Tensor | None, state: Rwkv6State) -> tuple[Tensor, Tensor]:
    """What a state has not read yet of a text that begins with what it has read.

    Args:
        prompt: token ids (batch, time), or embeddings (batch, time, channel): the whole text, or the end of it.
        attention_mask: (batch, time or more), 0 at padding: of the whole text. None where `prompt` is all of it.
        state: the state after the beginning.

    Returns:
        The columns of the prompt from the first that some row has not read, and their mask, (batch, columns), true at
        the real tokens that the row has not read.

    Raises:
        ValueError: nothing is unread, tokens before the prompt are, or the last token that the state has read is
            another. A state does not hold the tokens before that one, so other differences are not seen, and behind a
            gate on the time mixing's input not that one either.
    """
    base.layer_states(state, prompt.shape[0])
    batch, time = prompt.shape[:2]
    real_tokens(attention_mask, batch, time)  # refuses a mask of another shape
    real = prompt.new_ones((batch, time), dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    before = real.shape[1] - time  # columns of the mask before the prompt
    seen = state.seen.to(real.device).unsqueeze(1)
    count = real.cumsum(1)
    new = real & (count > seen)  # (B, whole)
    advice = "with past_key_values give the whole text, or its end and the attention_mask of the whole"
    if not bool(new.any(1).all()):
        lengths = f"{seen.flatten().tolist()} tokens, the text has {count[:, -1].tolist()}"
        raise ValueError(f"the state has read {lengths}, and none is left to read: {advice}")
    start = int(new.any(0).int().argmax())
    if start < before:
        raise ValueError(f"{before - start} unread tokens stand before those given: {advice}")
    last = (real & (count == seen))[:, before:]  # each row's last token that the state has read, where it is given
    if bool(last.any()) and not _left_by(base, state, prompt[last], last.any(1)):
        raise ValueError(f"the text does not begin with the {int(seen.max())} tokens that the state has read: {advice}")
    return prompt[:, start - before :], new[:, start:]


def _left_by(base: Rwkv6Model, state: Rwkv6State, last: Tensor, rows: Tensor) -> bool:
    """Whether the tokens `last` (row,) may be the last that the state has read in those of its rows.

    The first block's time mixing keeps its input at that token, which depends on no other token. Embeddings (row,
    channel) may stand for the tokens.
    """
    block, kept = base.blocks[0], state.layers[0].attention_shift
    if block.gated_shift_time is not None:
        return True  # the gate's output depends on earlier tokens
    shift = block.ln1(block.pre_ln(widened(base.embeddings(last) if last.dim() == 1 else last)))  # (rows, C)
    kept = kept[rows.to(kept.device)].to(shift)
    return bool(((shift - kept).norm(dim=1) <= 0.05 * kept.norm(dim=1)).all())


def in_windows(
    model: Any,
    inputs: Tensor,
    attention_mask: Tensor | None = None,
    *,
    window: int,
    state: Any = None,
    carried: bool = True,
    keep: Callable[[slice], int | Tensor] | None = None,
    **options: Any,
) -> Iterator[tuple[slice, Any]]:
    """Run a model over its input window by window, each window continuing from the state of the one before.

    Args:
        model: a causal model of transformers that carries a state or a cache; RWKV-4 names it differently.
        inputs: token ids (batch, time), or embeddings (batch, time, channel).
        attention_mask: (batch, time), 0 at padding.
        window: tokens per forward pass, at most.
        state: the state before the first token; None at the start of a document.
        carried: False starts every window without a state, as a model of a fixed context would.
        keep: the `logits_to_keep` of a window, from its columns; None does not pass that option.
        **options: further arguments of the model's forward pass.

    Yields:
        The columns of each window as a slice, and the model's output on them.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "head_size": 4}
        >>> model, ids = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).eval(), torch.ones(2, 5, dtype=torch.long)
        >>> [(part.start, part.stop, tuple(out.logits.shape)) for part, out in in_windows(model, ids, window=3)]
        [(0, 3, (2, 3, 9)), (3, 5, (2, 2, 9))]
    """
    name = "input_ids" if inputs.dim() == 2 else "inputs_embeds"
    past = {} if state is None else {"past_key_values": state}
    time = inputs.shape[1]
    for start in range(0, time, window):
        part = slice(start, min(start + window, time))
        # A cache of attention takes the mask of all that it has read; a state takes the last columns.
        read = slice(0, part.stop) if carried else part
        output = model(
            **{name: inputs[:, part]},
            attention_mask=None if attention_mask is None else attention_mask[:, read],
            use_cache=carried,
            **past,
            **options,
            **({} if keep is None else {"logits_to_keep": keep(part)}),
        )
        if carried:
            after = getattr(output, "past_key_values", None)
            past = {"state": output.state} if after is None else {"past_key_values": after}
        yield part, output
