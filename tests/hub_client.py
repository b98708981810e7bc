"""A process that loads checkpoints by name on request, and uploads gates to the hub.

huggingface_hub reads the addresses of hub and cache once, at import, so a test that sets them needs a process of its
own; it serves many tests, because the import takes seconds. Requests and answers are lines of JSON on standard input
and output.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from typing import Any

# huggingface_hub waits between attempts, up to half a minute in all.
time.sleep = lambda seconds: None


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Load a model, write its weights to `save`, and answer with its properties."""
    import torch
    import transformers
    from safetensors.torch import save_file

    import rwkvgate
    from rwkvgate.rwkv6.checkpoints import loaded_commit

    kind = getattr(rwkvgate if request["kind"].startswith("Rwkv6") else transformers, request["kind"])
    model = kind.from_pretrained(request["name"], **request["options"])
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, request["save"])
    again = model.config.to_dict()
    return {
        "commit": loaded_commit(model),
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "dtypes": sorted({str(tensor.dtype) for tensor in model.parameters()}),
        "heads": model.config.num_attention_heads,
        "inner": model.config.intermediate_size,
        "name": [model.name_or_path, model.config.name_or_path],
        "training": model.training,
        "config": {key: again.get(key) for key in ("auto_map", "_commit_hash")},
        "finite": bool(model(torch.tensor([[1, 2, 3]]))[0].isfinite().all()),
        "pad": getattr(model.generation_config, "pad_token_id", None) if hasattr(model, "generation_config") else None,
    }


def verify(request: dict[str, Any]) -> dict[str, Any]:
    """Run the command with the expected results in the request."""
    from rwkvgate.rwkv6.verify import Golden, main

    golden = request["golden"] | {"logits": {int(key): value for key, value in request["golden"]["logits"].items()}}
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(request["arguments"], Golden(**golden))
    return {"code": code, "said": said.getvalue()}


def base() -> Any:
    """A tiny network, the same every time."""
    import torch

    import rwkvgate

    torch.manual_seed(0)
    sizes = {"vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 3, "head_size": 8}
    return rwkvgate.Rwkv6ForCausalLM(rwkvgate.Rwkv6Config(**sizes)).eval()


def push(request: dict[str, Any]) -> dict[str, Any]:
    """Gate the tiny network and upload the gate to the hub; the answer has its logits."""
    import torch

    import rwkvgate

    model = base()
    if request.get("arm"):
        rwkvgate.patch(model, rwkvgate.GateConfig.preset(request["arm"]))
    about = rwkvgate.GateAbout(corpus="seeded stories", results={"perplexity": 2.5})
    address = rwkvgate.push_to_hub(model, request["name"], about, **request["options"])
    return {"address": address, "logits": model(torch.tensor([[1, 2, 3]])).logits.tolist()}


def pull(request: dict[str, Any]) -> dict[str, Any]:
    """Load a gate by name onto the tiny network; the answer has its logits."""
    import torch

    import rwkvgate

    model = rwkvgate.load_gate(base(), request["name"], **request["options"])
    return {"logits": model(torch.tensor([[1, 2, 3]])).logits.tolist()}


def main() -> None:
    """Answer until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # the output of libraries is no answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"load": load, "verify": verify, "push": push, "pull": pull}[request["do"]](request)
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error), "os_error": isinstance(error, OSError)}
        print(json.dumps(answer), file=out, flush=True)
    os._exit(0)  # Python would first take down torch and transformers piece by piece, for a second or two


if __name__ == "__main__":
    main()
