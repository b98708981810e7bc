"""Token shift: for every position, the value at the previous real token.

Time mixing and channel mixing need x at t - 1. With padding in the batch, or a state carried from an earlier call,
that is not simply the row above: it is the last position that holds a real token, or the state's value where there is
none. A gate that looks further back moves the real tokens together with `pack`. A forward pass makes one `TokenShift`,
and every layer uses it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def real_tokens(mask: Tensor | None, batch: int, time: int) -> Tensor | None:
    """The last `time` columns of an attention mask as booleans, or None where every token is real.

    Raises:
        ValueError: the mask is not (batch, time) or longer in time.
    """
    if mask is None:
        return None
    if mask.dim() != 2 or mask.shape[0] != batch or mask.shape[1] < time:
        raise ValueError(f"attention_mask is {tuple(mask.shape)}; it must be {(batch, time)}, or longer in time")
    columns = mask[:, -time:].bool()
    # A compiled graph cannot branch on values. There a mask of ones takes the long way, to the same numbers.
    return columns if torch.compiler.is_compiling() or not bool(columns.all()) else None


class TokenShift:
    """Positions of the previous real tokens under one attention mask.

    Args:
        mask: (batch, time), true at real tokens; None where all are real. Padding may stand anywhere.
        seen: real tokens of each row before this pass, (batch,); None where there were none.

    Attributes:
        lengths: real tokens of each row in this pass, (batch,); None where every token is real.
    """

    def __init__(self, mask: Tensor | None, seen: Tensor | None = None) -> None:
        self.mask, self.seen = mask, seen
        self.lengths = None if mask is None else mask.sum(1)
        self._packing: tuple[Tensor, Tensor] | None = None
        if mask is None:
            return
        # 1-based positions of real tokens, 0 for the carried value: the running maximum is then the last real token
        # up to and including t, (B, T).
        positions = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
        latest = positions.cummax(dim=1).values
        self._previous = torch.cat((torch.zeros_like(latest[:, :1]), latest[:, :-1]), dim=1).unsqueeze(-1)
        self._last = latest[:, -1:].unsqueeze(-1)
        if torch.compiler.is_compiling():
            # A checkpointed block of a compiled graph cannot keep what it computes. Unused, this costs nothing.
            self._places(mask)

    def __call__(self, x: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift x by one real token.

        Args:
            x: (batch, time, channel).
            carried: (batch, channel), the value before the first token; zeros where None.

        Returns:
            x at the previous real token, (batch, time, channel), and x at the last real token,
            (batch, channel), to be carried on. A row without a real token carries on what came in.
        """
        first = torch.zeros_like(x[:, :1]) if carried is None else carried.to(x.dtype).unsqueeze(1)
        if self.mask is None:
            # A copy: a view would keep all of x in memory as long as the state.
            last = x[:, -1].clone() if x.shape[1] > 1 else x[:, -1]
            return (first if x.shape[1] == 1 else torch.cat((first, x[:, :-1]), dim=1)), last
        extended = torch.cat((first, x), dim=1)  # (B, 1 + T, C)
        channels = x.shape[-1]
        previous = extended.gather(1, self._previous.expand(-1, -1, channels))
        return previous, extended.gather(1, self._last.expand(-1, -1, channels)).squeeze(1)

    def silence(self, x: Tensor) -> Tensor:
        """x (batch, time, channel) with zeros at padding."""
        return x if self.mask is None else x.masked_fill(~self.mask.unsqueeze(-1), 0)

    def to(self, device: torch.device | str, **_: Any) -> TokenShift:
        """The same shift on another device; accelerate calls this between a model's parts."""
        tensors = [x for x in (self.mask, self.seen) if x is not None]
        if all(x.device == torch.device(device) for x in tensors):
            return self
        return TokenShift(*(None if x is None else x.to(device) for x in (self.mask, self.seen)))

    def seen_after(self, x: Tensor) -> Tensor:
        """Real tokens of each row up to the end of a pass over x (batch, time, channel): (batch,)."""
        before = x.new_zeros(x.shape[0], dtype=torch.long) if self.seen is None else self.seen
        return before + (x.shape[1] if self.lengths is None else self.lengths)

    def pack(self, x: Tensor) -> Tensor:
        """x (batch, time, channel) with each row's padding moved behind its real tokens."""
        return x if self.mask is None else x.gather(1, self._places(self.mask)[0].expand_as(x))

    def unpack(self, x: Tensor) -> Tensor:
        """The inverse of `pack`, but for padding, where the result has no meaning."""
        return x if self.mask is None else x.gather(1, self._places(self.mask)[1].expand_as(x))

    def _places(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """For each place of a packed row the position that fills it, and for each position its place: (B, T, 1)."""
        # Computed where a gate asks, and once. Not a cached property: its lock cannot be compiled.
        if self._packing is None:
            order = mask.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
            self._packing = order.unsqueeze(-1), (mask.cumsum(1) - 1).clamp(min=0).unsqueeze(-1)
        return self._packing
