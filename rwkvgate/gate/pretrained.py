"""A patched RWKV-6 as one checkpoint of transformers: base and gates in its weights, the gates' config in config.json.

`rwkvgate` imports this module after the model's, so that `from_pretrained` gives a patched model back. The base's
loader cannot import gates, and so calls the function that is set here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rwkvgate.rwkv6 import checkpoints
from rwkvgate.rwkv6.files import digest
from rwkvgate.rwkv6.layouts import GATE, CheckpointError


def attach_saved(model: Any, fields: object, tensors: Mapping[str, Tensor], where: str) -> None:
    """Patch a loaded base with the gates that its checkpoint holds.

    Args:
        fields: the gates' config in config.json.
        tensors: the gates' weights by their names in the checkpoint.
        where: what an error calls it.

    Raises:
        CheckpointError: the config is none of a gate, or the weights are not those of such gates.
    """
    # Not at the top: these modules import the model's, which may be half imported when this one is.
    from rwkvgate.gate.config import GateConfig
    from rwkvgate.gate.storage import attach, check_fields
    from rwkvgate.gate.validation import SettingsError

    source = f"{GATE} in the configuration of {where}"
    try:
        given = dict(check_fields(fields, source))
        seal = given.pop("seal", None)
        config = GateConfig.build(given, where=source)
        if seal != digest(given):  # other settings may have the same shapes
            raise SettingsError(f"{source} is not what save_pretrained wrote: its seal does not fit")
        attach(model, config, {name.removeprefix("rwkv."): x for name, x in tensors.items()}, where)
    except SettingsError as error:
        raise CheckpointError(str(error)) from None


checkpoints.attach_gates = attach_saved
