"""Uploading a gate to the hub. `load_gate` downloads it by name."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedModel

from rwkvgate.gate.card import GateAbout
from rwkvgate.gate.storage import save_gate
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.hub import HubUnreachableError
from rwkvgate.rwkv6.layouts import CheckpointError


def push_to_hub(
    model: PreTrainedModel,
    repository: str,
    about: GateAbout | None = None,
    with_norms: bool | None = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload gate",
) -> str:
    """Upload the gate of a patched model to the hub, in one commit, and return the commit's address.

    The repository is created where it does not exist. The files are those that `save_gate` writes.

    Args:
        repository: "owner/name", or "name" for the account of the token.
        about: corpus, training and results, for the model card.
        with_norms: also the base's norms, for a gate that was trained with them; default: as of `save_gate`.
        private: whether a repository created here is private; default: the account's own choice.
        token: of an account that may write there; default: the one that huggingface_hub is logged in with.

    Raises:
        ValueError: the model is not patched. The hub is not asked.
        SettingsError: the repository's name is not valid.
        CheckpointError: the hub refused; nothing was committed. An `OSError`.
        HubUnreachableError: the hub gave no answer. A `CheckpointError`.

    Example:
        >>> from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
        >>> model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=9, hidden_size=8, num_hidden_layers=1, head_size=4))
        >>> push_to_hub(model, "owner/gate")  # without a gate there is nothing to upload, and the hub is not asked
        Traceback (most recent call last):
        ...
        ValueError: the model is not patched
    """
    with tempfile.TemporaryDirectory(prefix="rwkvgate-") as scratch:
        folder = save_gate(model, Path(scratch) / "gate", about, with_norms)
        api = HfApi(token=token)
        try:
            name = api.create_repo(repository, private=private, exist_ok=True).repo_id
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url)
        except HFValidationError as error:
            raise SettingsError(f'the repository is {repository!r}; it must be "owner/name": {error}') from None
        except Exception as error:  # which HTTP library raises here depends on the version of huggingface_hub
            if re.search("Connect|Proxy|Timeout", type(error).__name__):
                raise HubUnreachableError(f"the hub at {constants.ENDPOINT} cannot be reached: {error}") from None
            status = getattr(getattr(error, "response", None), "status_code", None)
            hint = "; give a token of an account that may write there" if status in (401, 403) else ""
            raise CheckpointError(
                f"uploading the gate to {repository} failed{hint}: {type(error).__name__}: {error}. "
                "Nothing was committed"
            ) from error
