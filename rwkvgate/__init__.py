"""rwkvgate: the gated shift of the previous hidden state for RWKV-6, reproduced and tested.

The public names are below. Each is imported at its first use, so that `import rwkvgate` takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkvgate.gate.card import GateAbout
    from rwkvgate.gate.config import GateConfig
    from rwkvgate.gate.patch import patch, unpatch
    from rwkvgate.gate.sharing import push_to_hub
    from rwkvgate.gate.storage import load_gate, save_gate
    from rwkvgate.rwkv6.checkpoints import loaded_commit
    from rwkvgate.rwkv6.configuration import Rwkv6Config
    from rwkvgate.rwkv6.modeling import Rwkv6ForCausalLM, Rwkv6Model, load_pth
    from rwkvgate.rwkv6.state import Rwkv6State
    from rwkvgate.rwkv6.tokenizer import Rwkv6Tokenizer

__version__ = "0.1.0"

_HOMES = {
    "Rwkv6Config": "rwkvgate.rwkv6.configuration",
    "load_pth": "rwkvgate.rwkv6.modeling",
    "loaded_commit": "rwkvgate.rwkv6.checkpoints",
    "Rwkv6ForCausalLM": "rwkvgate.rwkv6.modeling",
    "Rwkv6Model": "rwkvgate.rwkv6.modeling",
    "Rwkv6State": "rwkvgate.rwkv6.state",
    "Rwkv6Tokenizer": "rwkvgate.rwkv6.tokenizer",
    "GateConfig": "rwkvgate.gate.config",
    "patch": "rwkvgate.gate.patch",
    "unpatch": "rwkvgate.gate.patch",
    "GateAbout": "rwkvgate.gate.card",
    "push_to_hub": "rwkvgate.gate.sharing",
    "save_gate": "rwkvgate.gate.storage",
    "load_gate": "rwkvgate.gate.storage",
}

__all__ = [
    "GateAbout",
    "GateConfig",
    "Rwkv6Config",
    "Rwkv6ForCausalLM",
    "Rwkv6Model",
    "Rwkv6State",
    "Rwkv6Tokenizer",
    "load_gate",
    "load_pth",
    "loaded_commit",
    "patch",
    "push_to_hub",
    "save_gate",
    "unpatch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rwkvgate' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
