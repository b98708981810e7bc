"""The built wheel, installed without extras, used outside the checkout: `make dist` runs this file with its Python."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import rwkvgate
from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, Rwkv6Tokenizer, patch

SCRIPTS = Path(sysconfig.get_path("scripts"))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """What `rwkvgate` answers to these words."""
    return subprocess.run([SCRIPTS / "rwkvgate", *words], capture_output=True, text=True, check=False)


def main() -> None:
    """Save a small model with a gate, export its page, and ask for what needs extras."""
    assert Path(sysconfig.get_path("purelib")) in Path(rwkvgate.__file__).parents, f"imported from {rwkvgate.__file__}"
    os.chdir(tempfile.mkdtemp(prefix="wheel."))
    tokenizer = Rwkv6Tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "head_size": 16}
    model = patch(Rwkv6ForCausalLM(Rwkv6Config(vocab_size=len(tokenizer), **sizes)), GateConfig.preset("enhanced"))
    for one in (model, tokenizer):
        one.save_pretrained("model")
    exported = command("export", "model", "gate.html")
    assert exported.returncode == 0 and "$app.start" in Path("gate.html").read_text(encoding="utf-8"), exported.stderr
    for words in (("explore",), ("compare", "a", "b")):
        refused = command(*words)
        assert refused.returncode == 1 and 'pip install "rwkvgate[experiment]"' in refused.stderr, refused.stderr
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert command("verify", "--help").returncode == 0
    print(f"the wheel of rwkvgate {rwkvgate.__version__} works alone")


if __name__ == "__main__":
    main()
