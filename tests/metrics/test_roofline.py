"""Counted time: an operation takes the longest of its FLOPs, its bytes and a launch; views take nothing."""

from __future__ import annotations

import torch

from rwkvgate.metrics.roofline import Device, Roofline

NO_LIMIT = {"half": 1e30, "single": 1e30, "bytes": 1e30, "launch": 0.0, "loading": 1.0}


def device(**limits: float) -> Device:
    """A device with these limits alone."""
    return Device("example", **(NO_LIMIT | limits))


def test_products_by_their_type() -> None:
    for dtype, rate in ((torch.float16, "half"), (torch.float32, "single")):
        x = torch.empty(3, 5, dtype=dtype, device="meta")
        with Roofline(device(**{rate: 10.0})) as count:
            _ = x @ x.t()
        assert count.flops == 2 * 3 * 5 * 3 and count.seconds == 9.0 and count.launches == 1


def test_bytes_read_and_written_in_the_type_they_have() -> None:
    x, bias = torch.empty(4, 6, dtype=torch.float16, device="meta"), torch.empty(6, device="meta")
    with Roofline(device(bytes=1.0)) as count:
        wide = x.float()
        wide.add_(bias)
    # The cast reads 2 and writes 4 bytes a number; the sum in place reads itself and the bias, and writes itself.
    assert count.bytes == 24 * (2 + 4) + 24 * (4 + 4) + 6 * 4
    assert count.seconds == count.bytes


def test_views_and_what_is_only_reserved_take_nothing() -> None:
    with Roofline(device(launch=1.0)) as count:
        x = torch.empty(4, 6, device="meta")
        _ = x.t().unsqueeze(0).expand(3, -1, -1)[0].reshape(6, 4)
    assert count.seconds == 0 and count.launches == 0


def test_a_tensor_that_is_spread_is_read_once() -> None:
    x = torch.empty(1, 6, device="meta").expand(1000, -1)
    with Roofline(device(bytes=1.0)) as count:
        _ = x.sum()
    assert count.bytes == 6 * 4 + 4
