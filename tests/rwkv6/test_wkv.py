"""The WKV operator: its forms against plain loops and against each other, values and gradients."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rwkvgate.rwkv6 import compiled, loops
from rwkvgate.rwkv6.loops import wkv6_numba
from rwkvgate.rwkv6.wkv import wkv6, wkv6_chunked, wkv6_recurrent

BATCH, HEADS, CHANNELS = 2, 2, 4
NAMES = ("r", "k", "v", "w", "u", "state")
LENGTHS = (1, 2, 15, 16, 17, 63, 64, 65, 1000)
FORMS = pytest.mark.parametrize("form", [wkv6, wkv6_recurrent, wkv6_chunked, wkv6_numba])
FAST = pytest.mark.parametrize("form", [wkv6_chunked, wkv6_numba])

ROUNDING = {torch.float64: 2e-13, torch.float32: 1e-5}
"""Largest difference allowed, relative to the largest magnitude of what is compared. The forms add the
same terms in another order, so nothing but rounding may part them."""

Form = Callable[..., tuple[Tensor, Tensor]]
Inputs = dict[str, Tensor]


def draw(
    time: int, dtype: torch.dtype = torch.float64, seed: int = 0, batch: int = BATCH, channels: int = CHANNELS
) -> Inputs:
    """Random inputs whose log decays run from -1e-6 to -50, across channels and across time.

    Channel 0 mixes all decays over time, 1 hardly forgets, 2 forgets at once, 3 mixes the two extremes.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    shape = (batch, time, HEADS, channels)
    w = -torch.exp(math.log(1e-6) + (math.log(50) - math.log(1e-6)) * uniform(*shape))
    w[..., 1], w[..., 2] = -1e-6, -50
    w[..., 3] = torch.where(uniform(*shape[:3]) < 0.1, -50.0, -1e-6)
    values = {name: normal(*shape) for name in "rkv"} | {"w": w, "u": normal(HEADS, channels)}
    values["state"] = normal(batch, HEADS, channels, channels)
    return {name: values[name].to(dtype) for name in NAMES}


def run(form: Form, inputs: Inputs, autocast: tuple[bool, bool] = (False, False)) -> Inputs:
    """Output, new state, and the gradient of every input under random upstream gradients of both.

    `autocast` puts the forward, and the backward, under bfloat16 autocast.
    """
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast[0]):
        out, state = form(**leaves)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (out, state)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast[1]):
        gradients = torch.autograd.grad((out, state), list(leaves.values()), upstream)
    return {"out": out, "new state": state} | dict(zip(leaves, gradients, strict=True))


def plain_loops(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The equations as written, number by number, in numpy float64."""
    r, k, v, w, u, state = (inputs[name].double().numpy() for name in NAMES)
    state, out = state.copy(), np.zeros_like(v)
    for b, t, h in np.ndindex(*r.shape[:3]):
        for i, j in np.ndindex(CHANNELS, CHANNELS):
            written = k[b, t, h, i] * v[b, t, h, j]
            out[b, t, h, j] += r[b, t, h, i] * (state[b, h, i, j] + u[h, i] * written)
            state[b, h, i, j] = math.exp(w[b, t, h, i]) * state[b, h, i, j] + written
    return out, state


def assert_close(found: Inputs, wanted: Inputs, tolerance: float, relative_error: Callable) -> None:
    errors = {name: relative_error(found[name], wanted[name]) for name in wanted}
    assert max(errors.values()) <= tolerance, errors


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is filled with NaN, so that reading it before writing shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@FORMS
@pytest.mark.parametrize("time", [1, 2, 7, 16, 21])
def test_matches_the_equations_in_plain_loops(form: Form, time: int, relative_error: Callable) -> None:
    inputs = draw(time)
    out, state = form(**inputs)
    wanted_out, wanted_state = plain_loops(inputs)
    assert relative_error(out, torch.from_numpy(wanted_out)) <= ROUNDING[torch.float64]
    assert relative_error(state, torch.from_numpy(wanted_state)) <= ROUNDING[torch.float64]


@FAST
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("time", LENGTHS)
def test_the_fast_forms_match_the_recurrence_in_values_and_gradients(
    form: Form, time: int, dtype: torch.dtype, relative_error: Callable
) -> None:
    inputs = draw(time, dtype)
    assert_close(run(form, inputs), run(wkv6_recurrent, inputs), ROUNDING[dtype], relative_error)


@FAST
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [5, 16, 24, 32, 48, 64])
def test_the_fast_forms_match_the_recurrence_in_heads_of_any_size(
    form: Form, channels: int, dtype: torch.dtype, relative_error: Callable
) -> None:
    """Vectors fill the head wholly, once or in pairs, or leave some channels over."""
    inputs = draw(35, dtype, channels=channels)
    assert_close(run(form, inputs), run(wkv6_recurrent, inputs), ROUNDING[dtype], relative_error)


@FAST
@pytest.mark.parametrize("time", [17, 200])
def test_gradient_of_the_decay_matches_channel_by_channel(form: Form, time: int, relative_error: Callable) -> None:
    # Strongly decaying channels have gradients near exp(-50): measured against their own size, not the head's.
    inputs = draw(time)
    found, wanted = run(form, inputs)["w"], run(wkv6_recurrent, inputs)["w"]
    for channel in range(CHANNELS):
        assert relative_error(found[..., channel], wanted[..., channel]) <= ROUNDING[torch.float64]


@FAST
def test_float32_is_as_near_to_the_truth_as_the_recurrence_is(form: Form, relative_error: Callable) -> None:
    inputs = draw(1000, torch.float32)
    truth = run(wkv6_recurrent, {name: x.double() for name, x in inputs.items()})
    found, recurrent = run(form, inputs), run(wkv6_recurrent, inputs)
    for name, wanted in truth.items():
        error, allowed = relative_error(found[name], wanted), relative_error(recurrent[name], wanted)
        assert error <= 1.5 * allowed + 1e-6, f"{name}: {error} against the recurrence's {allowed}"


@pytest.mark.parametrize("chunk", [1, 2, 64, 128])
@pytest.mark.parametrize("time", [5, 65, 130])
def test_chunk_sizes_agree(time: int, chunk: int, relative_error: Callable) -> None:
    inputs = draw(time)
    found = run(lambda **x: wkv6_chunked(**x, chunk=chunk), inputs)
    wanted = run(lambda **x: wkv6_chunked(**x, chunk=16), inputs)
    assert_close(found, wanted, ROUNDING[torch.float64], relative_error)


@pytest.mark.parametrize(
    "form", [wkv6_recurrent, lambda *x: wkv6_chunked(*x, chunk=4), wkv6_numba], ids=["recurrent", "chunked", "numba"]
)
def test_gradients_match_finite_differences(form: Form) -> None:
    inputs = draw(6, batch=1)
    inputs["w"] = inputs["w"].clamp(-5, -1e-2)  # finite differences see nothing at exp(-50)
    torch.autograd.gradcheck(form, [x.requires_grad_() for x in inputs.values()])


@FORMS
def test_gradients_may_be_taken_twice_from_one_forward_pass(form: Form, relative_error: Callable) -> None:
    leaves = {name: x.requires_grad_() for name, x in draw(20).items()}
    out, state = form(**leaves)
    loss = out.square().sum() + state.sum()
    first = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
    second = torch.autograd.grad(loss, list(leaves.values()))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", [wkv6_chunked, wkv6_numba])
def test_a_gradient_of_a_gradient_is_refused_and_not_left_out(form: Form) -> None:
    leaves = {name: x.requires_grad_() for name, x in draw(20).items()}
    with pytest.raises(RuntimeError, match=r'create_graph=True.*wkv_backend\("recurrent"\)'):
        torch.autograd.grad(form(**leaves)[0].square().sum(), leaves["k"], create_graph=True)
    (slope,) = torch.autograd.grad(wkv6_recurrent(**leaves)[0].square().sum(), leaves["k"], create_graph=True)
    (again,) = torch.autograd.grad(slope.square().sum(), leaves["r"])
    assert again.abs().max() > 0


@FORMS
@pytest.mark.parametrize("used", ["out", "state"])
def test_gradients_when_only_one_result_is_used(form: Form, used: str, relative_error: Callable) -> None:
    def gradients(of: Form) -> dict[str, Tensor]:
        leaves = {name: x.requires_grad_() for name, x in draw(20).items()}
        result = of(**leaves)[used == "state"]
        found = torch.autograd.grad(result.square().sum(), list(leaves.values()), allow_unused=True)
        return {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)}

    assert_close(gradients(form), gradients(wkv6_recurrent), ROUNDING[torch.float64], relative_error)


def in_parts(form: Form, cuts: list[int]) -> Form:
    """`form` over consecutive parts of the sequence, each from the state before it."""

    def parts(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        outs = []
        for piece in zip(*(x.tensor_split(cuts, dim=1) for x in (r, k, v, w)), strict=True):
            out, state = form(*piece, u, state)
            outs.append(out)
        return torch.cat(outs, dim=1), state

    return parts


@FORMS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("cuts", [[33], [1], [16, 48], list(range(1, 70))], ids=["halves", "1", "chunks", "each"])
def test_whole_equals_parts_with_carried_state(
    form: Form, dtype: torch.dtype, cuts: list[int], relative_error: Callable
) -> None:
    inputs = draw(70, dtype)
    assert_close(run(in_parts(form, cuts), inputs), run(form, inputs), ROUNDING[dtype], relative_error)


@FORMS
def test_no_state_is_a_state_of_zeros(form: Form) -> None:
    inputs = draw(20)
    zeros = form(**(inputs | {"state": torch.zeros_like(inputs["state"])}))
    none = form(**(inputs | {"state": None}))
    assert all(torch.equal(a, b) for a, b in zip(zeros, none, strict=True))


@FORMS
def test_inputs_are_not_changed(form: Form) -> None:
    inputs = draw(40)
    before = {name: x.clone() for name, x in inputs.items()}
    run(form, inputs)
    form(**inputs)
    assert all(torch.equal(inputs[name], before[name]) for name in NAMES)


@FAST
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_channel_may_forget_everything(form: Form, dtype: torch.dtype, relative_error: Callable) -> None:
    inputs = draw(50, dtype)
    inputs["w"][:, ::3, :, 0] = -math.inf
    inputs["w"][:, :, 0, 1] = -math.inf
    found = run(form, inputs)
    assert all(bool(x.isfinite().all()) for x in found.values())
    assert_close(found, run(wkv6_recurrent, inputs), ROUNDING[dtype], relative_error)


@FAST
def test_a_channel_may_forget_nothing(form: Form, relative_error: Callable) -> None:
    inputs = draw(300)
    inputs["w"] = torch.zeros_like(inputs["w"])
    assert_close(run(form, inputs), run(wkv6_recurrent, inputs), ROUNDING[torch.float64], relative_error)


@FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(form: Form, dtype: torch.dtype) -> None:
    halves = draw(40, dtype)
    found, wanted = run(form, halves), run(form, {name: x.float() for name, x in halves.items()})
    assert found["out"].dtype == found["new state"].dtype == torch.float32
    assert torch.equal(found["out"], wanted["out"]) and torch.equal(found["new state"], wanted["new state"])
    for name in NAMES:
        assert found[name].dtype == dtype and torch.equal(found[name], wanted[name].to(dtype))


@pytest.mark.parametrize(
    ("form", "autocast"),
    [
        (wkv6_recurrent, (True, False)),  # a backward under autocast is torch's own here, and rounds
        (wkv6_chunked, (True, False)),
        (wkv6_chunked, (True, True)),
        (wkv6_numba, (True, True)),
        (wkv6, (True, True)),
    ],
)
def test_autocast_changes_nothing(form: Form, autocast: tuple[bool, bool]) -> None:
    inputs = draw(40, torch.float32)
    wanted, found = run(form, inputs), run(form, inputs, autocast)
    assert all(x.dtype == torch.float32 and torch.equal(x, wanted[name]) for name, x in found.items())


@FORMS
def test_uninitialised_memory_is_never_read(form: Form) -> None:
    inputs = draw(70, torch.float32)
    wanted = run(form, inputs)
    with poisoned_memory():
        assert bool(torch.empty(3).isnan().all()), "the poison is not in force"
        found = run(form, inputs)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@FORMS
def test_no_tokens_give_no_output_and_the_same_state(form: Form) -> None:
    inputs = draw(0)
    out, state = form(**inputs)
    assert out.shape == (BATCH, 0, HEADS, CHANNELS)
    assert torch.equal(state, inputs["state"])


@FORMS
@pytest.mark.parametrize(
    ("name", "shape", "found", "allowed"),
    [
        ("k", (2, 5, 2, 4), "(2, 5, 2, 4)", "(2, 6, 2, 4)"),
        ("w", (2, 6, 2), "(2, 6, 2)", "(2, 6, 2, 4)"),
        ("u", (4, 2), "(4, 2)", "(2, 4)"),
        ("state", (1, 2, 4, 4), "(1, 2, 4, 4)", "(2, 2, 4, 4)"),
        ("state", (2, 2, 4, 5), "(2, 2, 4, 5)", "(2, 2, 4, 4)"),
    ],
)
def test_shapes_that_disagree_are_refused(
    form: Form, name: str, shape: tuple[int, ...], found: str, allowed: str
) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b") as error:
        form(**(draw(6) | {name: torch.zeros(shape, dtype=torch.float64)}))
    assert found in str(error.value) and allowed in str(error.value)


@FORMS
def test_flat_heads_are_refused(form: Form) -> None:
    flat = torch.zeros(2, 6, 8)
    with pytest.raises(ValueError, match=r"\(batch, time, head, channel\).*\(2, 6, 8\)"):
        form(flat, flat, flat, flat, torch.zeros(2, 4))


@pytest.mark.parametrize("chunk", [0, -4, 3, 48])
def test_a_chunk_that_is_no_power_of_two_is_refused(chunk: int) -> None:
    with pytest.raises(ValueError, match=rf"chunk is {chunk}; .* power of two"):
        wkv6_chunked(**draw(6), chunk=chunk)


@pytest.mark.parametrize(("batch", "threads"), [(1, 2), (3, 2), (3, 4), (2, 40)])
def test_threads_change_no_bit_of_the_fused_form(batch: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(50, torch.float32, batch=batch)
    wanted = run(wkv6_numba, inputs)
    monkeypatch.setattr(compiled, "PARALLEL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = run(wkv6_numba, inputs)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_fused_form_may_run_in_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "PARALLEL", 0)
    inputs = draw(200, torch.float32)
    wanted = run(wkv6_numba, inputs)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: run(wkv6_numba, inputs), range(20)):
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_fused_form_needs_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(50, torch.float32)
    monkeypatch.setattr(compiled, "PARALLEL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    wanted = run(wkv6_numba, inputs)
    monkeypatch.setattr(compiled, "_openmp", lambda: None)
    found = run(wkv6_numba, inputs)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_a_forked_process_runs_without_the_threads_that_it_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(20, torch.float32)  # so few that torch's own operations take no threads
    monkeypatch.setattr(compiled, "PARALLEL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    wanted = wkv6_numba(**inputs)[0]
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends a child that waits for its parent's threads
        os._exit(0 if torch.equal(wkv6_numba(**inputs)[0], wanted) and not compiled.has_threads() else 1)
    assert os.waitpid(child, 0)[1] == 0


NEGATIVE = torch.zeros(1, dtype=torch.complex64).conj().imag


@pytest.mark.parametrize(
    "x",
    [torch.zeros(3, 3).t()[:2], torch.zeros(3, dtype=torch.int64), torch.zeros(3, device="meta"), NEGATIVE],
    ids=str,
)
def test_what_a_compiled_loop_cannot_read_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="a compiled loop takes"):
        compiled.share(loops._forward_single, 1, 1, (1, 1, 1, 16, 0), [x] * 9)


def test_a_state_without_memory_is_refused() -> None:
    """Its address would be 0."""
    inputs = draw(5)
    with FakeTensorMode() as mode:
        state = mode.from_tensor(inputs["state"])
    with pytest.raises(ValueError, match="not a FakeTensor without its numbers"):
        wkv6_numba(**(inputs | {"state": state}))


def test_a_change_of_what_the_loops_share_compiles_them_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def loop(task: Any) -> None:
        pass

    names = []
    for lanes in (4, 8):
        monkeypatch.setattr(compiled, "LANES", lanes)
        compiled._callback.__wrapped__(loop)
        names.append(loop.__qualname__)
    assert names[0] != names[1] and all(name.startswith("loop_") for name in names)


def test_a_loop_is_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    own = compiled.cfunc

    def full(signature: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise OSError("no space left on device")
        return own(signature, **options)

    def negated(task: Any) -> None:
        x = compiled.array(task, 0, (3,), np.float32)
        first, last = compiled.taken(task)
        for i in range(first, last):
            x[i] = -x[i]

    monkeypatch.setattr(compiled, "cfunc", full)
    x = torch.tensor([1.0, 2.0, 3.0])
    compiled.share(negated, 3, 1, (), (x,))
    assert x.tolist() == [-1, -2, -3]


def test_without_openmp_there_are_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> ctypes.CDLL:
        raise OSError(path)

    assert compiled.has_threads() == (sys.platform == "linux")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert compiled._openmp.__wrapped__() is None


def test_a_forward_derivative_of_the_fused_form_is_refused_not_lost() -> None:
    inputs = draw(5)
    tangents = {name: torch.ones_like(x) for name, x in inputs.items()}
    with torch.autograd.forward_ad.dual_level(), torch.no_grad(), pytest.raises(NotImplementedError, match="jvp"):
        wkv6_numba(**{name: torch.autograd.forward_ad.make_dual(x, tangents[name]) for name, x in inputs.items()})
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    out, _ = wkv6_numba(**leaves)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="carry no tangents"):
        torch.autograd.grad(out, leaves["k"], torch.autograd.forward_ad.make_dual(torch.ones_like(out), out.detach()))


@pytest.mark.parametrize("place", range(6))
def test_a_tensor_on_another_device_is_refused(place: int) -> None:
    given = [*torch.rand(4, 1, 5, 2, 4).unbind(0), torch.rand(2, 4), torch.rand(1, 2, 4, 4)]
    given[place] = given[place].to("meta")
    with pytest.raises(ValueError, match="must be on one device; found r "):
        wkv6(*given)
