"""What profile t4 meets on Colab, as far as a CPU can show it: `make rehearse`, about 10 minutes and 8 GB of disk.

    python benchmarks/rehearse.py [--parts losses disconnects shapes loading] [--json FILE]

A server on loopback stands for the hub. It has a checkpoint by the name of the paper's, in the hub's layout, pickled,
with the World vocabulary. Data sets lie in parquet files with the columns of TinyStories and wikitext. The frozen
base is float16, gates and norms are float32, and the experiment's own training loop trains them on the CPU:
accelerate refuses float16 there, so `half_on_cpu` turns on, after that check, what it turns on for a GPU: autocast
and a GradScaler. Each part runs in processes of its own, whose peak memory is theirs.

- losses: steps of `enhanced` and `base-tuned` in float16 beside float32, on a small network.
- disconnects: the process is killed inside every step; what the run ends with, and how often weights were fetched.
- shapes: training steps at the real widths, with 2 layers and the whole vocabulary.
- loading: peak memory while the 3.2 GB of pickled weights are loaded; Colab has 12.7 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the server of the tests

NAME = "RWKV/v6-Finch-1B6-HF"
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "head_size": 32}
WIDE = {"hidden_size": 2048, "num_hidden_layers": 2, "head_size": 64}
WHOLE = WIDE | {"num_hidden_layers": 24}
STEPS = {"losses": 60, "disconnects": 6, "shapes": 3}
COLAB_GB, MOST_GB, APART = 12.7, 8.0, 0.02
"""Colab's memory; the most that loading may take of it; and nats per token between float16 and float32 at the end."""


class Served(NamedTuple):
    """The hub's address, and the paths that were fetched from it so far."""

    address: str
    fetched: list[str]


def settings(folder: Path, texts: Path, dtype: str, steps: int, **training: Any) -> Any:
    """Profile t4 with fewer documents and steps, on local parquet files in place of the two data sets."""
    from rwkvgate.experiment.settings import resolve

    sets = [{"name": str(texts / name), "config": "", "revision": "", "documents": 10} for name in ("stories", "wiki")]
    return resolve(
        profile="t4",
        run_dir=str(folder),
        model={"dtype": dtype},
        corpus={
            "documents": 60,
            "natural_characters": 30_000,
            "hub": [{"split": "train", "column": "text"} | one for one in sets],
        },
        training={"steps": steps, "warmup_steps": 2, "batch_size": 4, "length": 96, "eval_every": steps, "log_every": 1}
        | training,
        evaluation={"documents": 4, "new_tokens": 8, "timed_tokens": 3, "latency_repeats": 3, "studies": False},
    )


@contextmanager
def half_on_cpu() -> Iterator[list[Any]]:
    """A block in which the training loop trains float16 on a CPU as on a GPU: under autocast, with a GradScaler.

    Yields the list of the GradScalers that were made.
    """
    import torch

    from rwkvgate.experiment.training import loop

    plain, is_half = loop._trainer, loop._is_half
    scalers: list[Any] = []

    def trainer(job: Any, *arguments: Any) -> Any:
        made = plain(job, *arguments)
        if is_half(job.model):
            made.accelerator.native_amp = True
            made.accelerator.state._mixed_precision = "fp16"
            made.accelerator.scaler = torch.amp.GradScaler("cpu")
            scalers.append(made.accelerator.scaler)
        return made

    loop._trainer, loop._is_half = trainer, lambda model: False
    try:
        yield scalers
    finally:
        loop._trainer, loop._is_half = plain, is_half


def work(job: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own does; returns what it found."""
    found = globals()[f"_{job['part']}"](job)
    return found | {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def _steps(job: dict[str, Any]) -> dict[str, Any]:
    """Every step of two arms, each made or, where it is finished, left; prints the name of each before it begins."""
    from rwkvgate.experiment import order
    from rwkvgate.experiment.run import open_folder
    from rwkvgate.experiment.steps import ensure_arm, ensure_base, ensure_evaluation, ensure_texts, ensure_times
    from rwkvgate.experiment.steps.base import read_log

    run = open_folder(settings(Path(job["folder"]), Path(job["texts"]), job["dtype"], job["steps"]))
    variants = [run.variant(arm) for arm in ("base-tuned", "enhanced")]
    losses = {}
    with half_on_cpu() as scalers:
        for name, make in (("corpus", ensure_texts), ("base", ensure_base)):
            print(f"begins {name}", flush=True)
            make(run)
        for variant in variants:
            print(f"begins {variant}", flush=True)
            ensure_arm(variant)
            losses[variant.arm.name] = [r["loss"] for r in read_log(order.arm(variant)).history if "loss" in r]
        if job.get("evaluated"):
            print("begins evaluation", flush=True)
            ensure_evaluation(variants[1])
            ensure_times(variants[1])
    scales = [scaler.get_scale() for scaler in scalers]
    return {"losses": losses, "scales": scales, "outputs": {str(v): order.arm(v).outputs for v in variants}}


def _shapes(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
    from rwkvgate.experiment.settings import Schedule
    from rwkvgate.experiment.training import train
    from rwkvgate.gate.patch import select_trainable

    torch.manual_seed(0)
    model = patch(Rwkv6ForCausalLM(Rwkv6Config(**WIDE)).half(), GateConfig.preset("enhanced"))
    select_trainable(model, "gate-and-norms")
    schedule = Schedule(
        steps=STEPS["shapes"],
        batch_size=2,
        length=48,
        learning_rate=1e-3,
        warmup_steps=1,
        weight_decay=0.0,
        gradient_checkpointing=True,
    )
    rows = torch.randint(1, 65000, (2 * schedule.steps, 48), generator=torch.Generator().manual_seed(0)).tolist()
    started = time.monotonic()
    with half_on_cpu() as scalers:
        log = train(model, rows, schedule, label="2 layers of 2,048 channels, float16", seed=0)
    trained = {str(p.dtype) for p in model.parameters() if p.requires_grad}
    losses = [record["loss"] for record in log.history if "loss" in record]
    return {
        "losses": losses,
        "trained": sorted(trained),
        "scale": scalers[0].get_scale(),
        "seconds": time.monotonic() - started,
    }


def _loading(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    from rwkvgate import Rwkv6ForCausalLM

    started = time.monotonic()
    model = Rwkv6ForCausalLM.from_pretrained(job["folder"], dtype=torch.float16)
    numbers = sum(p.numel() for p in model.parameters())
    return {"parameters": numbers, "file GB": job["file GB"], "seconds": time.monotonic() - started}


def spawn(
    job: dict[str, Any], place: Path, hub: str, kill_after: tuple[str, float] | None = None
) -> dict[str, Any] | None:
    """Run `work(job)` in a process without another network than the hub's; None where it was killed, as asked.

    Args:
        kill_after: a step's name, and the seconds after it begins.
    """
    env = os.environ | {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(place / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUTF8": "1",
    }
    answer = place / "answer.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--work", json.dumps(job | {"answer": str(answer)})]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        lines: list[str] = []
        for line in child.stdout or ():
            lines.append(line)
            if kill_after and line.startswith(f"begins {kill_after[0]}"):
                threading.Timer(kill_after[1], child.send_signal, [signal.SIGKILL]).start()
        code = child.wait()
    if kill_after and code == -signal.SIGKILL:
        return None
    if code:
        sys.exit(f"{job['part']} failed:\n{''.join(lines)[-4000:]}")
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def losses(place: Path, hub: Served) -> dict[str, Any]:
    """Training losses in float16 and float32, and how far apart they end."""
    found = {}
    for dtype in ("float32", "float16"):
        job = {
            "part": "steps",
            "folder": str(place / dtype),
            "texts": str(place / "texts"),
            "dtype": dtype,
            "steps": STEPS["losses"],
        }
        found[dtype] = spawn(job, place, hub.address) or {}
    rows: dict[str, Any] = {"peak GB": found["float16"]["peak GB"], "gradient scales": found["float16"]["scales"]}
    if found["float32"]["scales"] or len(rows["gradient scales"]) != 2:
        sys.exit(f"float16 and float32 were not trained as they should: {rows}")
    for arm, full in found["float32"]["losses"].items():
        half = found["float16"]["losses"][arm]
        apart = [abs(a - b) for a, b in zip(full, half, strict=True)]
        rows[arm] = {
            "first": [full[0], half[0]],
            "last": [full[-1], half[-1]],
            "furthest": max(apart),
            "curves": [full, half],
        }
        if not abs(full[-1] - half[-1]) <= APART:
            sys.exit(f"{arm}: float16 ends at {half[-1]:.4f} and float32 at {full[-1]:.4f}")
    return rows


def disconnects(place: Path, hub: Served) -> dict[str, Any]:
    """A run that is killed inside each of its steps, beside one that is not; and how often weights were downloaded."""
    shared = {
        "part": "steps",
        "texts": str(place / "texts"),
        "dtype": "float16",
        "steps": STEPS["disconnects"],
        "evaluated": True,
    }
    whole = spawn(shared | {"folder": str(place / "whole")}, place, hub.address) or {}
    kills, job = 0, shared | {"folder": str(place / "killed")}
    for name, seconds in (("corpus", 0.5), ("base", 0.3), ("base-tuned", 2.0), ("enhanced", 2.0), ("evaluation", 0.5)):
        kills += spawn(job, place, hub.address, (name, seconds)) is None
    again = spawn(job, place, hub.address) or {}
    if again["outputs"] != whole["outputs"]:
        sys.exit(f"after the kills the arms differ: {again['outputs']} and {whole['outputs']}")
    folder = sum(path.stat().st_size for path in (place / "killed").rglob("*") if path.is_file())
    return {
        "kills": kills,
        "downloads of the weights by all runs so far": _fetched(hub),
        "run folder MB": folder / 1e6,
        "equal": True,
    }


def shapes(place: Path, hub: Served) -> dict[str, Any]:
    """Training steps of gates and norms at the real widths in float16."""
    return spawn({"part": "shapes"}, place, hub.address) or {}


def loading(place: Path, hub: Served) -> dict[str, Any]:
    """Peak memory of loading the pickled weights of the real shape."""
    import torch

    from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM

    folder = place / "large"
    folder.mkdir()
    config = Rwkv6Config(**WHOLE)
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(config).to(torch.bfloat16)
    weights = {name: torch.full(x.shape, 0.01, dtype=torch.bfloat16) for name, x in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    config.save_pretrained(folder)
    del weights
    size = (folder / "pytorch_model.bin").stat().st_size / 1e9
    found = spawn({"part": "loading", "folder": str(folder), "file GB": size}, place, hub.address) or {}
    if not found["peak GB"] <= MOST_GB:
        sys.exit(f"loading took {found['peak GB']:.1f} GB at its peak, more than {MOST_GB}")
    return found


PARTS = {part.__name__: part for part in (losses, disconnects, shapes, loading)}


def _fetched(hub: Served) -> int:
    return sum(path.endswith("/pytorch_model.bin") for path in hub.fetched)


@contextmanager
def served(place: Path) -> Iterator[Served]:
    """The hub, with the small checkpoint by the paper's name, and parquet files of the two data sets' columns."""
    import io

    import pandas as pd
    import torch

    from rwkvgate import Rwkv6Config, Rwkv6ForCausalLM
    from rwkvgate.experiment.corpora.stories import generate_stories
    from rwkvgate.rwkv6.hub import REVISIONS
    from tests.hub_server import Handler, Hub

    torch.manual_seed(0)
    model = Rwkv6ForCausalLM(Rwkv6Config(**SMALL)).half()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    hub = Hub()
    files = {"pytorch_model.bin": buffer.getvalue(), "config.json": model.config.to_dict()}
    hub.publish(NAME, files, commit=REVISIONS[NAME].ljust(40, "0"))  # the revision that is asked for is pinned
    texts = [story.text for story in generate_stories(60, seed=1)]
    long = [" ".join(texts[i : i + 4]) for i in range(0, 60, 4)]
    lines = [row for i, text in enumerate(long) for row in ("", f" = Title {i} = \n", "", f" {text} \n")]
    for name, column in (("stories", long), ("wiki", lines)):
        (place / "texts" / name).mkdir(parents=True)
        pd.DataFrame({"text": column}).to_parquet(place / "texts" / name / "train-00000-of-00001.parquet")

    class Counting(Handler):
        def do_GET(self) -> None:
            if self.command == "GET":
                fetched.append(self.path)
            super().do_GET()

        do_HEAD = do_GET

    Counting.hub = hub
    fetched: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", fetched)
    finally:
        server.shutdown()


def main() -> None:
    """Run the parts and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="write what was found to this file, which keeps its other parts")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        job = json.loads(given.work)
        Path(job["answer"]).write_text(json.dumps(work(job)))
        return
    from rwkvgate.experiment.environment import processor

    found = {}
    with tempfile.TemporaryDirectory(prefix="rwkvgate-rehearsal-") as folder, served(Path(folder)) as hub:
        for name in given.parts:
            started = time.monotonic()
            found[name] = PARTS[name](Path(folder), hub)
            print(f"{name}, {time.monotonic() - started:.0f} s: {json.dumps(_short(found[name]))}", flush=True)
            if given.json:
                given.json.parent.mkdir(parents=True, exist_ok=True)
                known = json.loads(given.json.read_text()) if given.json.exists() else {}
                known["processor"] = processor()
                given.json.write_text(json.dumps(known | found, indent=2) + "\n")


def _short(value: Any) -> Any:
    """The value without curves, numbers rounded."""
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items() if key not in ("curves", "outputs")}
    if isinstance(value, list):
        return [_short(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
