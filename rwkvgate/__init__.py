"""rwkvgate: the gated shift of the previous hidden state for RWKV-6, reproduced and tested.

The public names are below. Each is imported at its first use, so that `import rwkvgate` takes milliseconds. The Auto
classes of transformers know RWKV-6 as soon as this package and they are imported, in any order.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
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

_FOLLOWERS = {
    "transformers.models.auto.configuration_auto": "rwkvgate.rwkv6.configuration",
    "transformers.models.auto.modeling_auto": "rwkvgate.rwkv6.modeling",
    "transformers.models.auto.tokenization_auto": "rwkvgate.rwkv6.tokenizer",
    "rwkvgate.rwkv6.modeling": "rwkvgate.gate.pretrained",
}
"""A module, and the one that is imported right after it: it registers its classes there, or sets a hook."""

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


class _Following:
    """An import hook: after each module of `_FOLLOWERS`, the module that follows it is imported."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The usual spec of such a module, whose loader imports the follower at its end; None for any other module."""
        spec = PathFinder.find_spec(name, path) if name in _FOLLOWERS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _follow(name)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _follow(name: str) -> None:
    try:
        import_module(_FOLLOWERS[name])
    except ImportError as error:
        # A module of this package is being imported, and brought in transformers' on its way.
        if "partially initialized module 'rwkvgate." not in str(error):
            raise


sys.meta_path.insert(0, _Following)
for _name in _FOLLOWERS:
    if _name in sys.modules:
        _follow(_name)
