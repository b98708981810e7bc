"""The hidden states that a gate looks at: those of this pass, and the last few before it."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvgate.rwkv6.precision import widened
from rwkvgate.rwkv6.token_shift import TokenShift


class Past:
    """Hidden states of real tokens, each row's first, behind the `window` ones that came before this pass.

    Before a document's first token every hidden state is 0.

    Args:
        hidden: (batch, time, channel).
        tokens: which of them are real, and how many came before.
        window: states to look back, K.
        extra: further rows of state that a gating function keeps.
        carried: what an earlier pass left, (batch, window + extra, channel), oldest state first; None at the start.

    Attributes:
        now: the hidden states in float32 at least, packed, (batch, time, channel).
        extra: the further rows, (batch, extra, channel). A gating function that has some replaces them.
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
        """Real tokens of each row in this pass, (batch, 1), or one number where every token is real."""
        return self.now.shape[1] if self.tokens.lengths is None else self.tokens.lengths[:, None]

    def carry(self) -> Tensor:
        """What to hand to the next pass, (batch, window + extra, channel)."""
        ends = self.ends()
        if isinstance(ends, int):
            # A copy, for a view would keep all hidden states in memory as long as the state.
            last = self.extended[:, ends:].clone()
        else:
            last = gather_rows(self.extended, ends + torch.arange(self.window, device=ends.device))
        return torch.cat((last, self.extra), dim=1) if self.extra.shape[1] else last

    def restore(self, packed: Tensor, like: Tensor) -> Tensor:
        """A packed result in the places and the type of the hidden states it was computed from."""
        return self.tokens.unpack(packed).to(like.dtype)


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x (batch, row, channel) at rows (batch, n) of each batch row: (batch, n, channel)."""
    return x.gather(1, rows.unsqueeze(-1).expand(*rows.shape, x.shape[-1]))
