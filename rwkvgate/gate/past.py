"""The hidden states that a gate reads: those of this pass, and the last few before it."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvgate.rwkv6.precision import widened
from rwkvgate.rwkv6.token_shift import TokenShift


class Past:
    """The hidden states of a pass, padding moved to the end of each row, and the K states before the pass.

    Before a document's first token every hidden state is 0.

    Args:
        hidden: (batch, time, channel).
        tokens: which positions are real, and how many real tokens came before.
        window: how many states back a gate reads, K.
        extra: rows that a gating function keeps in the state, beside those.
        carried: `carry()` of the pass before, (batch, window + extra, channel), oldest state first; None at the start.

    Attributes:
        now: the hidden states of the pass, float32 at least, (batch, time, channel).
        extended: the states before the pass and then `now`, (batch, window + time, channel); of a recurrent gate, its
            results before the pass and then those of the pass.
        extra: the gating function's rows, (batch, extra, channel), which it replaces.
    """

    def __init__(self, hidden: Tensor, tokens: TokenShift, window: int, extra: int, carried: Tensor | None) -> None:
        self.tokens, self.window = tokens, window
        self.now = tokens.pack(widened(hidden))
        if carried is None:
            carried = self.now.new_zeros(hidden.shape[0], window + extra, hidden.shape[2])
        carried = carried.to(self.now.dtype)
        self.extra = carried[:, window:]
        self.extended = torch.cat((carried[:, :window], self.now), dim=1)

    def tap(self, back: int) -> Tensor:
        """h_{t - back} for every t, (batch, time, channel); back from 0 to `window`."""
        start = self.window - back
        return self.extended[:, start : start + self.now.shape[1]]

    def positions(self) -> Tensor:
        """Real tokens before each token of its document, (batch or 1, time)."""
        steps = torch.arange(self.now.shape[1], device=self.now.device)[None]
        return steps if self.tokens.seen is None else steps + self.tokens.seen[:, None]

    def ends(self) -> Tensor | int:
        """Number of real tokens of each row in this pass, (batch, 1); one number where every token is real."""
        return self.now.shape[1] if self.tokens.lengths is None else self.tokens.lengths[:, None]

    def carry(self) -> Tensor:
        """The state for the next pass, (batch, window + extra, channel)."""
        ends = self.ends()
        if isinstance(ends, int):
            # A copy: a view would keep all hidden states in memory as long as the state.
            last = self.extended[:, ends:].clone()
        else:
            last = gather_rows(self.extended, ends + torch.arange(self.window, device=ends.device))
        return torch.cat((last, self.extra), dim=1) if self.extra.shape[1] else last

    def restore(self, packed: Tensor, like: Tensor) -> Tensor:
        """A result of `now`, with the positions and the type of the hidden states `like`."""
        return self.tokens.unpack(packed).to(like.dtype)


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x (batch, row, channel) at rows (batch, n) of each batch row: (batch, n, channel)."""
    return x.gather(1, rows.unsqueeze(-1).expand(*rows.shape, x.shape[-1]))
