"""Clients of the hub on this machine, and a tiny network's weights as its files have them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.hub_server import Client, Hub


@pytest.fixture(scope="module")
def offline(hub: Hub, online: Client) -> Iterator[Client]:
    """A process with the same cache that must not ask the hub."""
    client = Client(hub.address, online.home, HF_HUB_OFFLINE="1")
    yield client
    client.close()


@pytest.fixture(scope="module")
def unplugged(online: Client) -> Iterator[Client]:
    """A process with the same cache and a hub that does not answer."""
    with socket.socket() as taken:  # held, so that nothing else can listen there
        taken.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{taken.getsockname()[1]}", online.home)
        yield client
        client.close()


@pytest.fixture
def weights(tiny_model: Any) -> dict[str, torch.Tensor]:
    """A tiny network's weights in bfloat16, as the hub keeps them."""
    return {name: tensor.clone() for name, tensor in tiny_model(dtype=torch.bfloat16).state_dict().items()}


@pytest.fixture
def pickled(tmp_path: Path) -> Callable[[Any], bytes]:
    """The bytes that torch.save writes."""

    def write(value: Any) -> bytes:
        torch.save(value, tmp_path / "pickled")
        return (tmp_path / "pickled").read_bytes()

    return write


@pytest.fixture
def safe(tmp_path: Path) -> Callable[[dict[str, torch.Tensor]], bytes]:
    """The bytes of a safetensors file."""

    def write(value: dict[str, torch.Tensor]) -> bytes:
        save_file(value, tmp_path / "safe", metadata={"format": "pt"})
        return (tmp_path / "safe").read_bytes()

    return write
