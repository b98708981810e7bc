"""What a CPU cannot show, on a machine with a GPU and no network: `make gpu-check`, in at most 8 minutes.

    python benchmarks/gpu_check.py [--minutes 8] [--folder outputs/gpu]

Each check compares what runs on the GPU with what the CPU tests hold right: the operator and every arm with float64
on the CPU, flash-linear-attention's kernels with ours, float16 training with float32's, a step of profile t4 with a
T4's memory, the paper's Table 1 at its own shape, and two GPUs with one. Results go to one JSON file, named after the
device, and to a page beside it, after every check, so that a machine that is taken away leaves what was done. A check
that cannot run here says why; one that fails sets the exit status. With `--small`, it all runs in a minute on a CPU,
which shows that this file works, and nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a machine without the package installed runs its checkout

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch, unpatch  # noqa: E402
from rwkvgate.experiment.arms import ARMS  # noqa: E402
from rwkvgate.experiment.settings import Schedule  # noqa: E402
from rwkvgate.experiment.training import train  # noqa: E402
from rwkvgate.gate.families import family_of  # noqa: E402
from rwkvgate.gate.patch import select_trainable  # noqa: E402
from rwkvgate.metrics.latency import device_name, ratio_of_medians, time_calls  # noqa: E402
from rwkvgate.rwkv6.files import write_json, write_text  # noqa: E402
from rwkvgate.rwkv6.kernels import describe_backend, wkv_backend  # noqa: E402
from rwkvgate.rwkv6.recurrence import wkv6_chunked, wkv6_recurrent  # noqa: E402
from rwkvgate.rwkv6.wkv import wkv6  # noqa: E402

T4_GIB = 14.5
"""What a T4's 16 GB leave to a process."""
FLOAT32, ARM, TF32 = 1e-4, 1e-3, 5e-3
"""Largest errors relative to the largest magnitude: of the operator, of a whole arm with its gradients, and of the
kernels of flash-linear-attention, which multiply in TF32."""
APART = 0.02
"""Nats per token that the mean loss of the last steps in float16 may differ from float32's."""
PAPER = {"base": 0.472585, "enhanced": 0.486664, "no-layer-norm": 0.481514, "fixed-gate": 0.481347}
"""Seconds of the paper's Table 1, on a T4."""
Table = list[dict[str, Any]]


class Machine(NamedTuple):
    """Where the checks run, and whether at small sizes."""

    device: torch.device
    small: bool


class Unavailable(Exception):
    """Why a check cannot run on this machine."""


class Failed(Exception):
    """What a check found wrong."""

    def __init__(self, message: str, rows: Table) -> None:
        super().__init__(message)
        self.rows = rows


def operator(machine: Machine) -> Table:
    """The WKV operator on the device, each form with every gradient, against the recurrence in float64 on the CPU."""
    rows = []
    forms: dict[str, Any] = {"recurrent": wkv6_recurrent, "chunked": wkv6_chunked}
    if describe_backend(machine.device)["name"] == "fla":
        forms["fla"] = partial(_forced, "fla")
    for tokens in (1, 63, 256):
        inputs = _random_inputs(tokens, heads=4, channels=64)
        exact = _values_and_gradients(wkv6_recurrent, {name: x.double() for name, x in inputs.items()})
        for name, form in forms.items():
            found = _values_and_gradients(form, {key: x.to(machine.device) for key, x in inputs.items()})
            rows.append({"form": name, "tokens": tokens, "error": _largest_error(found, exact)})
    return _within(rows, lambda row: TF32 if row["form"] == "fla" else FLOAT32)


def arms(machine: Machine) -> Table:
    """Logits and every gradient of each arm in float32 on the device, against float64 on the CPU, and in two parts."""
    sizes = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "head_size": 16}
    ids = torch.randint(97, (2, 37), generator=torch.Generator().manual_seed(0))
    rows = []
    for name, arm in ARMS.items():
        if not (arm.gate and arm.trained) and name != "base":
            continue
        torch.manual_seed(0)
        model = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).eval()
        if arm.gate:
            patch(model, GateConfig.preset(name))
            with torch.no_grad():  # gates that start as nothing would hide an error
                for key, parameter in model.named_parameters():
                    if "gated_shift" in key or parameter.abs().max() == 0:
                        parameter.add_(0.1 * torch.randn_like(parameter))
        exact = _logits_and_gradients(model.double(), ids)
        model = model.float().to(machine.device)
        found = _logits_and_gradients(model, ids.to(machine.device))
        with torch.no_grad():
            first = model(ids[:, :20].to(machine.device), use_cache=True)
            second = model(ids[:, 20:].to(machine.device), past_key_values=first.past_key_values)
        parts = torch.cat([first.logits, second.logits], 1)
        rows.append({"arm": name, "error": _largest_error(found, exact), "in two parts": _error(parts, exact[0])})
    return _within(rows, lambda _: ARM)


def kernels(machine: Machine) -> Table:
    """flash-linear-attention's kernels beside the chunked form: a forward pass, and one with its backward."""
    found = describe_backend(machine.device)
    if found["name"] != "fla":
        raise Unavailable(found["reason"])
    rows = []
    for batch, tokens in ((1, 512), (8, 512), (1, 4096)):
        inputs = {
            name: x.to(machine.device).requires_grad_()
            for name, x in _random_inputs(tokens, heads=32, channels=64, batch=batch).items()
        }

        def forward(name: str, inputs: dict[str, Tensor] = inputs) -> None:
            with torch.no_grad():
                _forced(name, **inputs)

        def both(name: str, inputs: dict[str, Tensor] = inputs) -> None:
            torch.autograd.grad(_forced(name, **inputs)[0].sum(), list(inputs.values()), allow_unused=True)

        for what, call in (("forward", forward), ("with backward", both)):
            seconds = time_calls({n: partial(call, n) for n in ("chunked", "fla")}, 15, 3, torch.cuda.synchronize)
            ratio = ratio_of_medians(seconds["chunked"], seconds["fla"])
            rows.append({"batch": batch, "tokens": tokens, "call": what} | _interval("chunked / fla", ratio))
    return rows


def float16(machine: Machine) -> Table:
    """A frozen float16 base with float32 gates, trained by the experiment's own loop, beside the same in float32."""
    if machine.device.type != "cuda":
        raise Unavailable("training in float16 needs a CUDA device; `make rehearse` does it on a CPU")
    full, half = (_trained_losses(machine, dtype) for dtype in (torch.float32, torch.float16))
    rows = [{"step": step, "float32": loss, "float16": half[step]} for step, loss in full.items()]
    apart = abs(rows[-1]["float16"] - rows[-1]["float32"])
    if not apart <= APART:
        raise Failed(f"float16 ends {apart:.3f} nats per token apart from float32, more than {APART}", rows)
    return rows


def memory(machine: Machine) -> Table:
    """Steps of profile t4 on the 1.6 B shape, 8 rows of 384 tokens, within a T4's memory."""
    if machine.device.type != "cuda":
        raise Unavailable("a T4's memory can be imitated on a CUDA device alone")
    total = torch.cuda.get_device_properties(machine.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, T4_GIB * 2**30 / total))
    try:
        model = _random_model(_paper_shape(machine), torch.float16, machine.device)
        patch(model, GateConfig.preset("enhanced"))
        select_trainable(model, "gate-and-norms")
        schedule = _schedule(steps=3, batch_size=8, length=384, gradient_checkpointing=True)
        log = train(model, _texts(24, 384, model.config.vocab_size), schedule, label="t4", seed=0)
        reserved = torch.cuda.max_memory_reserved(machine.device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    row = {"limit GiB": T4_GIB, "peak GiB": (log.peak_bytes or 0) / 2**30, "reserved GiB": reserved / 2**30}
    return [row | {"predicted GiB": log.predicted_bytes / 2**30, "seconds a step": log.seconds / log.steps}]


def table1(machine: Machine) -> Table:
    """The paper's Table 1 at its own shape: a forward pass of each arm over the base's, timed in turn."""
    cuda = machine.device.type == "cuda"
    model = _random_model(_paper_shape(machine), torch.float16 if cuda else torch.float32, machine.device)
    names = ("base", "enhanced", "no-layer-norm", "fixed-gate")
    places, blocks = family_of(model).places, model.rwkv.blocks
    fitted: dict[str, list[tuple[Any, ...]]] = {"base": [(None,) * len(places)] * len(blocks)}
    for name in names[1:]:
        patch(model, GateConfig.preset(name))
        fitted[name] = [tuple(getattr(block, place) for place in places) for block in blocks]
        unpatch(model)

    def forward(name: str, ids: Tensor) -> None:
        for block, gates in zip(blocks, fitted[name], strict=True):
            for place, gate in zip(places, gates, strict=True):
                setattr(block, place, gate)
        model(ids, use_cache=False)

    rows, wait = [], torch.cuda.synchronize if cuda else None
    shapes = ((1, 16),) if machine.small else ((1, 100), (8, 100), (1, 1024), (8, 1024))
    with torch.inference_mode():
        for batch, tokens in shapes:
            ids = torch.randint(model.config.vocab_size, (batch, tokens), device=machine.device)
            seconds = time_calls({n: partial(forward, n, ids) for n in names}, 5 if machine.small else 31, 3, wait)
            for name in names[1:]:
                ratio = ratio_of_medians(seconds[name], seconds["base"])
                row = {"arm": name, "batch": batch, "tokens": tokens, "base s": float(sorted(seconds["base"])[0])}
                rows.append(row | _interval("ratio", ratio) | {"paper": PAPER[name] / PAPER["base"]})
    return rows


def several(machine: Machine) -> Table:
    """Two processes that train together, on two GPUs by NCCL, beside one: the same losses."""
    if machine.device.type == "cuda" and torch.cuda.device_count() < 2:
        raise Unavailable("it takes two GPUs, and here is one")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "losses.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", __file__, f"--worker={path}"]
        command += ["--small"] if machine.small else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise Failed(done.stderr[-1500:], [])
        together = {int(step): loss for step, loss in json.loads(path.read_text()).items()}
    alone = _trained_losses(machine, torch.float32)
    rows = [{"step": step, "one": loss, "two": together[step]} for step, loss in alone.items()]
    if not math.isclose(rows[-1]["one"], rows[-1]["two"], rel_tol=1e-2):
        raise Failed("two processes do not train as one does", rows)
    return rows


CHECKS: dict[str, Callable[[Machine], Table]] = {
    check.__name__: check for check in (operator, arms, float16, memory, table1, kernels, several)
}
"""In this order: what matters most comes first, should the time run out."""


def run(machine: Machine, minutes: float, write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Every check that the time allows; the record so far is written after each."""
    began = time.monotonic()
    record: dict[str, Any] = {"machine": describe(machine), "checks": {}}
    for name, check in CHECKS.items():
        started = time.monotonic()
        entry: dict[str, Any] = {"what": " ".join((check.__doc__ or "").split()), "state": "passed"}
        if started - began > 60 * minutes:
            entry |= {"state": "not run", "reason": f"the {minutes:g} minutes were over"}
        else:
            try:
                entry["rows"] = check(machine)
            except Unavailable as reason:
                entry |= {"state": "not run", "reason": str(reason)}
            except Failed as failure:
                entry |= {"state": "failed", "reason": str(failure), "rows": failure.rows}
            except Exception as error:  # of any library on a machine that nobody has seen: the other checks go on
                entry |= {"state": "failed", "reason": f"{type(error).__name__}: {error}"}
                traceback.print_exc()
        entry["seconds"] = round(time.monotonic() - started, 1)
        record["checks"][name] = entry
        print(f"{name}: {entry['state']}, {entry['seconds']} s {entry.get('reason', '')}", flush=True)
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
        write(record)
    return record


def describe(machine: Machine) -> dict[str, Any]:
    """The device and the versions, for the record."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"device": device_name(machine.device), "small": machine.small, "torch": torch.__version__}
    for package in ("transformers", "accelerate", "triton", "flash-linear-attention"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if machine.device.type == "cuda":
        properties = torch.cuda.get_device_properties(machine.device)
        found |= {"capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda}
        found |= {"memory GiB": round(properties.total_memory / 2**30, 1), "GPUs": torch.cuda.device_count()}
    return found | {"wkv": describe_backend(machine.device)}


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    machine = record["machine"]
    parts = [f"# {machine['device']}", "`make gpu-check` wrote this page on that device."]
    parts.append("\n".join(f"- {key}: {value}" for key, value in machine.items() if key != "wkv"))
    parts.append(f"- WKV: {machine['wkv']['name']} ({machine['wkv']['reason']})")
    for name, entry in record["checks"].items():
        reason = f": {entry['reason']}" if "reason" in entry else ""
        parts.append(f"## {name}\n\n{entry['what']}\n\n*{entry['state'].capitalize()}*, {entry['seconds']} s{reason}")
        if rows := entry.get("rows"):
            head = list(rows[0])
            lines = [head, ["---"] * len(head), *([_cell(row[key]) for key in head] for row in rows)]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _forced(name: str, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    with wkv_backend(name):
        return wkv6(**inputs)


def _random_inputs(tokens: int, heads: int, channels: int, batch: int = 2) -> dict[str, Tensor]:
    """Inputs of the operator with decays from nearly none to complete."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, tokens, heads, channels)
    values = {name: torch.randn(shape, generator=generator) for name in "rkvw"}
    values["w"] = -torch.exp(2 * values["w"] - 1)
    values["w"][..., ::4], values["w"][..., 1::4] = -1e-6, -50
    values["u"] = torch.randn(shape[2:], generator=generator)
    values["state"] = torch.randn(batch, heads, channels, channels, generator=generator)
    return values


def _values_and_gradients(form: Callable[..., tuple[Tensor, Tensor]], inputs: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    results = form(**leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator).to(x) for x in results]
    return [*(x.detach() for x in results), *torch.autograd.grad(results, list(leaves.values()), upstream)]


def _logits_and_gradients(model: Rwkv6ForCausalLM, ids: Tensor) -> list[Tensor]:
    model.zero_grad()
    logits = model(ids).logits
    model(ids, labels=ids).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [logits.detach().double().cpu(), *(x.double().cpu() for x in gradients)]


def _error(found: Tensor, exact: Tensor) -> float:
    scale = exact.abs().max().clamp_min(1e-6)
    return float((found.double().cpu() - exact.double().cpu()).abs().max() / scale)


def _largest_error(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(_error(x, y) for x, y in zip(found, exact, strict=True))


def _within(rows: Table, allowed: Callable[[dict[str, Any]], float]) -> Table:
    """The rows, once no error is above what is allowed; nan is."""
    wrong = [row for row in rows for key in ("error", "in two parts") if key in row and not row[key] <= allowed(row)]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(rows)} err by more than allowed, such as {wrong[0]}", rows)
    return rows


def _interval(name: str, ratio: Any) -> dict[str, float]:
    return {name: ratio.estimate, "low": ratio.low, "high": ratio.high}


def _paper_shape(machine: Machine) -> dict[str, int]:
    """The sizes of the paper's base, or small ones."""
    if machine.small:
        return {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "head_size": 16}
    return {"vocab_size": 65536, "hidden_size": 2048, "num_hidden_layers": 24, "head_size": 64}


def _random_model(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Rwkv6ForCausalLM:
    """A model with random weights of ordinary sizes."""
    with torch.device("meta"):
        model = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).to(dtype)
    model = model.to_empty(device=device).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.02)
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.add_(1)
    return model


def _schedule(**changes: Any) -> Schedule:
    sizes = {"steps": 100, "batch_size": 8, "length": 64, "gradient_checkpointing": False}
    return Schedule(**(sizes | {"learning_rate": 3e-3, "warmup_steps": 2, "weight_decay": 0.0} | changes))


def _texts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """Rows in which every token follows from the one before, so that there is something to learn."""
    return [[(i + 7 * k + (k * k) % 5) % vocabulary for k in range(length)] for i in range(count)]


def _trained_losses(machine: Machine, dtype: torch.dtype) -> dict[int, float]:
    """Losses by step of gates and norms trained on a frozen base: the mean of the steps since the last."""
    torch.manual_seed(0)
    model = Rwkv6ForCausalLM(Rwkv6Config(vocab_size=97, hidden_size=128, num_hidden_layers=4, head_size=32))
    patch(model.to(dtype).to(machine.device), GateConfig.preset("enhanced"))
    select_trainable(model, "gate-and-norms")
    schedule = _schedule(steps=20 if machine.small else 100)
    rows = _texts(schedule.steps * schedule.batch_size, schedule.length, 97)
    log = train(model, rows, schedule, label=str(dtype), seed=0)
    return {int(record["step"]): record["loss"] for record in log.history if "loss" in record}


@contextmanager
def _full_float32() -> Iterator[None]:
    """A block without TF32, which would hide errors of the size that the checks look for."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def main() -> int:
    """Run the checks and write the record; returns 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "gpu")
    parser.add_argument("--small", action="store_true", help="small sizes, on a CPU where there is no GPU")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.small:
        sys.exit(f"torch {torch.__version__} finds no CUDA device; --small tries this file on a CPU")
    machine = Machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"), given.small)
    if given.worker:
        losses = _trained_losses(machine, torch.float32)
        if os.environ.get("RANK") == "0":
            write_json(given.worker, losses)
        return 0
    name = re.sub(r"[^a-z0-9]+", "-", device_name(machine.device).lower()).strip("-")

    def write(record: dict[str, Any]) -> None:
        given.folder.mkdir(parents=True, exist_ok=True)
        write_json(given.folder / f"{name}.json", record)
        write_text(given.folder / f"{name}.md", page(record))

    with _full_float32():
        record = run(machine, given.minutes, write)
    print(given.folder / f"{name}.md")
    return int(any(entry["state"] == "failed" for entry in record["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
