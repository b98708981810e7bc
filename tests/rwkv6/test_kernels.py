"""Which code runs the WKV operator: selection, forcing and the probe, with numba's loops and a package of our own in
fla's place."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from rwkvgate.rwkv6 import kernels
from rwkvgate.rwkv6.kernels import BACKENDS, TOLERANCE, VARIABLE, choose, describe_backend, wkv_backend
from rwkvgate.rwkv6.loops import wkv6_numba
from rwkvgate.rwkv6.wkv import wkv6, wkv6_chunked, wkv6_recurrent

Operator = Callable[..., tuple[Tensor, Tensor]]


def draw(time: int, dtype: torch.dtype = torch.float32, heads: int = 2, channels: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    r, k, v, d = (torch.randn(2, time, heads, channels, generator=generator) for _ in range(4))
    u = torch.randn(heads, channels, generator=generator)
    state = torch.randn(2, heads, channels, channels, generator=generator)
    inputs = {"r": r, "k": k, "v": v, "w": -torch.exp(d), "u": u, "state": state}
    return {name: x.to(dtype) for name, x in inputs.items()}


def operator(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> Operator:
    """An op with fla's signature and its default scale; `change` damages its output and state."""

    def run(
        r: Tensor,
        k: Tensor,
        v: Tensor,
        w: Tensor,
        u: Tensor,
        scale: float | None = None,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        assert {x.dtype for x in (r, k, v, w, u)} == {torch.float32}, "only float32 is handed over"
        assert bool(w.isfinite().all()), "sums of decays would be nan"
        out, state = wkv6_recurrent(r * (r.shape[-1] ** -0.5 if scale is None else scale), k, v, w, u, initial_state)
        if change is not None:
            out, state = change(out, state)
        return out, state if output_final_state else None

    return run


class Fla:
    """A package in fla's place, and what was called in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._patch = monkeypatch

    def install(self, chunk: Any = None, fused: Any = None) -> None:
        """Put the two ops where `import fla.ops.rwkv6` finds them; None is a right one."""
        for name in ("fla", "fla.ops", "fla.ops.rwkv6"):
            self._patch.setitem(sys.modules, name, ModuleType(name))
        for name, given in (("chunk_rwkv6", chunk), ("fused_recurrent_rwkv6", fused)):
            op = operator() if given is None else given

            def counted(*inputs: Any, _op: Any = op, _name: str = name, **options: Any) -> Any:
                self.calls.append(_name)
                return _op(*inputs, **options)

            setattr(sys.modules["fla.ops.rwkv6"], name, counted)


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make every device one of that compute capability, the CPU too."""
    return lambda found: monkeypatch.setattr(kernels, "_capability", lambda device: found)


@pytest.fixture
def fla(monkeypatch: pytest.MonkeyPatch, capability: Callable[[Any], None]) -> Iterator[Fla]:
    """A right package on a device of compute capability 8.0."""
    kernels._probe.cache_clear()
    capability((8, 0))
    package = Fla(monkeypatch)
    package.install()
    yield package
    kernels._probe.cache_clear()


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_forced", None)
    monkeypatch.delenv(VARIABLE, raising=False)


def form_for(time: int, dtype: torch.dtype = torch.float32) -> Any:
    return choose(torch.zeros(2, time, 2, 8, dtype=dtype))


@pytest.fixture
def fresh() -> Iterator[None]:
    """No probe has run yet, and none of this test's is remembered."""
    kernels._probe.cache_clear()
    yield
    kernels._probe.cache_clear()


def test_a_cpu_takes_the_fused_loops() -> None:
    assert form_for(1) is form_for(2) is form_for(500) is wkv6_numba
    found = describe_backend("cpu")
    assert found["name"] == "numba" and found["reason"].startswith("device cpu, relative error ")
    with wkv_backend("numba"):
        assert form_for(9) is wkv6_numba
        assert describe_backend("cpu")["reason"].startswith("forced by wkv_backend; device cpu, relative error")


def test_one_token_is_read_by_the_recurrence_where_there_are_no_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.zeros(2, 1, 2, 8)
    assert choose(one.double()) is choose(one.to("meta")) is wkv6_recurrent
    assert torch.compile(lambda r: choose(r) is wkv6_recurrent, backend="eager", fullgraph=True)(one)
    monkeypatch.setattr(kernels, "_examine", lambda *_: (None, "numba is not installed"))
    assert choose(one) is wkv6_recurrent


def test_float64_and_other_devices_are_plain_pytorch() -> None:
    assert form_for(1, torch.float64) is wkv6_recurrent and form_for(9, torch.float64) is wkv6_chunked
    for time, form in ((1, wkv6_recurrent), (9, wkv6_chunked)):
        assert choose(torch.zeros(1, time, 2, 8, device="meta")) is form
    assert describe_backend("meta") == {"name": "chunked", "reason": "device meta is no CPU"}
    with (
        wkv_backend("numba"),
        pytest.raises(RuntimeError, match="'numba', which cannot run here: device meta is no CPU"),
    ):
        choose(torch.zeros(1, 9, 2, 8, device="meta"))


def test_a_tensor_of_another_class_is_plain_pytorch() -> None:
    class Traced(Tensor):
        pass

    assert choose(torch.zeros(1, 9, 2, 8).as_subclass(Traced)) is wkv6_chunked


def test_what_is_traced_or_transformed_is_plain_pytorch(relative_error: Callable) -> None:
    inputs, again = draw(20), draw(20)
    again["r"] = again["r"] + 1
    wanted = wkv6_chunked(**again)[0]

    class Operator(torch.nn.Module):
        def forward(self, r: Tensor) -> Tensor:
            return wkv6(**(inputs | {"r": r}))[0]

    given = {"eager": Operator(), "compile": torch.compile(Operator(), fullgraph=True, backend="eager")}
    given["export"] = torch.export.export(Operator(), (inputs["r"],)).module()
    given["make_fx"] = make_fx(Operator())(inputs["r"])
    for name, operator in given.items():
        assert relative_error(operator(again["r"]), wanted) < 1e-5, name
    with forward_ad.dual_level(), torch.no_grad():
        out = Operator()(forward_ad.make_dual(again["r"], torch.ones_like(again["r"])))
        assert forward_ad.unpack_dual(out).tangent is not None
    with wkv_backend("numba"), pytest.raises(RuntimeError, match="cannot run here: the tensors are traced"):
        make_fx(Operator())(inputs["r"])


def test_the_probe_heeds_no_defaults(fresh: None) -> None:
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    try:
        kernels._probe("numba", torch.device("cpu"), 8)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert form_for(9) is wkv6_numba and float(describe_backend("cpu", head_size=8)["reason"].split()[4]) < 1e-5


def test_without_numba_a_cpu_does_without_a_word(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rwkvgate.rwkv6.loops")
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it now fails as if it were not installed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert form_for(1) is wkv6_recurrent and form_for(9) is wkv6_chunked
    assert describe_backend("cpu") == {"name": "chunked", "reason": "numba is not installed"}
    with wkv_backend("numba"), pytest.raises(RuntimeError, match="cannot run here: numba is not installed"):
        wkv6(**draw(3))


@pytest.mark.parametrize("gradients", [False, True], ids=["values", "gradients"])
def test_wrong_loops_are_not_taken_and_are_warned_of_once(
    fresh: None, monkeypatch: pytest.MonkeyPatch, gradients: bool
) -> None:
    def wrong(**inputs: Tensor) -> tuple[Tensor, Tensor]:
        out, state = wkv6_numba(**inputs)
        return (out + 1e-4 * (out - out.detach()) if gradients else out * 1.0001), state

    monkeypatch.setattr("rwkvgate.rwkv6.loops.wkv6_numba", wrong)
    with pytest.warns(RuntimeWarning, match="WKV on cpu in plain PyTorch: numba errs by .* more than 1e-05") as found:
        assert form_for(9) is form_for(70) is wkv6_chunked
    assert len(found) == 1


def test_a_right_package_is_taken_on_a_recent_gpu(fla: Fla, relative_error: Callable) -> None:
    inputs = draw(70)
    found, wanted = wkv6(**inputs), wkv6_chunked(**inputs)
    assert fla.calls[-1] == "chunk_rwkv6" and form_for(1) is wkv6_recurrent
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))
    assert describe_backend("cpu")["name"] == "fla"
    assert "compute capability 8.0, relative error" in describe_backend("cpu")["reason"]


@pytest.mark.parametrize(("time", "op"), [(1, "chunk"), (2, "fused_recurrent"), (64, "fused_recurrent"), (65, "chunk")])
def test_few_tokens_take_the_recurrent_op_unless_a_gradient_is_needed(fla: Fla, time: int, op: str) -> None:
    with wkv_backend("fla"):
        inputs = draw(time)
        wkv6(**inputs)
        assert fla.calls[-1] == f"{op}_rwkv6"
        wkv6(**(inputs | {"state": inputs["state"].requires_grad_()}))
        assert fla.calls[-1] == "chunk_rwkv6"
        with torch.no_grad():
            wkv6(**inputs)
        assert fla.calls[-1] == f"{op}_rwkv6"


def test_gradients_pass_through_the_package(fla: Fla, relative_error: Callable) -> None:
    found, wanted = (kernels._with_gradients(form, draw(70)) for form in (wkv6, wkv6_chunked))
    assert fla.calls[-1] == "chunk_rwkv6"
    assert all(relative_error(a, b) < 1e-4 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_handed_over_in_float32(fla: Fla, dtype: torch.dtype) -> None:
    out, state = wkv6(**draw(20, dtype))
    assert fla.calls and out.dtype == state.dtype == torch.float32


def test_float64_never_goes_to_the_package(fla: Fla) -> None:
    assert form_for(70, torch.float64) is wkv6_chunked
    assert describe_backend("cpu", torch.float64)["reason"].startswith("float64")
    assert not fla.calls
    with wkv_backend("fla"), pytest.raises(RuntimeError, match="'fla', which cannot run here: float64"):
        wkv6(**draw(20, torch.float64))


def test_a_decay_of_minus_infinity_reaches_the_package_as_a_number(fla: Fla, relative_error: Callable) -> None:
    inputs = draw(70)
    inputs["w"][:, ::3] = -torch.inf
    assert relative_error(wkv6(**inputs)[0], wkv6_chunked(**inputs)[0]) < 1e-5


def test_no_tokens(fla: Fla) -> None:
    inputs = draw(0)
    with wkv_backend("fla"):
        out, state = wkv6(**inputs)
    assert out.shape == (2, 0, 2, 8) and torch.equal(state, inputs["state"])


def test_shapes_are_checked_whatever_runs(fla: Fla) -> None:
    with pytest.raises(ValueError, match=r"u is \(3, 8\)"):
        wkv6(**(draw(70) | {"u": torch.zeros(3, 8)}))


@pytest.mark.parametrize("found", [(7, 5), (7, 0)])
def test_an_old_gpu_does_without(fla: Fla, capability: Callable[[Any], None], found: tuple[int, int]) -> None:
    capability(found)
    assert form_for(70) is wkv6_chunked and not fla.calls
    reason = f"compute capability {found[0]}.{found[1]} < 8.0"
    assert describe_backend("cpu") == {"name": "chunked", "reason": reason}


def test_a_missing_package_is_no_reason_to_warn(fla: Fla, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fla", "fla.ops", "fla.ops.rwkv6"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])  # nothing is installed here
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert form_for(70) is wkv6_chunked
    assert describe_backend("cpu")["reason"] == "flash-linear-attention is not installed"


def test_a_package_without_the_ops_is_told_from_a_missing_one(fla: Fla, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla.ops.rwkv6", None)
    with pytest.warns(RuntimeWarning, match="cannot be imported"):
        assert form_for(70) is wkv6_chunked


def half(out: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return out * 1.1, state


def without_gradient(out: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return out, state.detach().requires_grad_()


def not_numbers(out: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return out, state * torch.nan


def unable(out: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    raise IndexError("map::at\nand a long trace")


@pytest.mark.parametrize("op", ["chunk", "fused"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (half, "errs by [0-9.]+e-0[12] in the probe, more than 5e-03$"),
        (not_numbers, "errs by nan in"),
        (unable, "raised IndexError: map::at$"),
    ],
    ids=["values", "nan", "raises"],
)
def test_a_wrong_op_is_not_taken_and_is_warned_of_once(fla: Fla, op: str, change: Any, reason: str) -> None:
    fla.install(**{op: operator(change)})
    with pytest.warns(RuntimeWarning, match=f"WKV on cpu in plain PyTorch: flash-linear-attention {reason}") as found:
        assert form_for(70) is wkv6_chunked
    assert len(found) == 1 and "\n" not in str(found[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert form_for(70) is wkv6_chunked
        assert describe_backend("cpu", head_size=8)["name"] == "chunked"


def test_a_missing_gradient_of_the_state_is_found(fla: Fla) -> None:
    fla.install(chunk=operator(without_gradient))
    with pytest.warns(RuntimeWarning, match="errs by"):
        assert form_for(70) is wkv6_chunked


@pytest.mark.parametrize("op", ["chunk", "fused"])
def test_the_default_scale_is_found(fla: Fla, op: str) -> None:
    right = operator()

    def deaf(*inputs: Tensor, scale: float, **options: Any) -> tuple[Tensor, Tensor]:
        return right(*inputs, scale=None, **options)

    fla.install(**{op: deaf})
    with pytest.warns(RuntimeWarning, match="errs by"):
        assert form_for(70) is wkv6_chunked


@pytest.mark.parametrize(("bits", "taken"), [(11, True), (6, False)])
def test_the_tolerance_admits_the_bits_of_tf32_but_not_half_of_them(fla: Fla, bits: int, taken: bool) -> None:
    def rounded(x: Tensor) -> Tensor:
        """x to so many significant bits; gradients pass."""
        with torch.no_grad():
            mantissa, exponent = torch.frexp(x)
            kept = torch.ldexp((mantissa * 2.0**bits).round() / 2.0**bits, exponent)
        return x + (kept - x).detach()

    right = operator()

    def coarse(r: Tensor, k: Tensor, v: Tensor, w: Tensor, u: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return right(rounded(r), rounded(k), rounded(v), w, u, **options)

    fla.install(chunk=coarse, fused=coarse)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (form_for(70) is not wkv6_chunked) is taken
        if taken:
            assert 1e-5 < kernels._probe("fla", torch.device("cpu"), 8)[0] <= TOLERANCE["fla"]


def test_the_probe_runs_once_for_a_device_and_head_size(fla: Fla) -> None:
    for _ in range(3):
        form_for(70)
    assert fla.calls == ["fused_recurrent_rwkv6", "chunk_rwkv6"]
    choose(torch.zeros(1, 70, 2, 16))
    assert len(fla.calls) == 4


def test_the_probe_runs_in_inference_and_leaves_random_numbers_alone(fla: Fla) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        wanted = torch.rand(2)
        torch.manual_seed(3)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert form_for(70) is not wkv6_chunked
        assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("time", [1, 2, 70])
def test_a_form_can_be_forced(monkeypatch: pytest.MonkeyPatch, time: int) -> None:
    for name, form in (("recurrent", wkv6_recurrent), ("chunked", wkv6_chunked)):
        with wkv_backend(name):
            assert form_for(time) is form
            assert describe_backend("cpu") == {"name": name, "reason": "forced by wkv_backend"}
        monkeypatch.setenv(VARIABLE, name)
        assert form_for(time) is form
        assert describe_backend("cpu") == {"name": name, "reason": "forced by RWKVGATE_WKV"}
        monkeypatch.delenv(VARIABLE)


def test_forcing_nests_ends_with_its_block_and_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "chunked")
    with wkv_backend("recurrent"):
        with wkv_backend("auto"):
            assert form_for(9) is wkv6_numba
        assert form_for(9) is wkv6_recurrent
    assert form_for(1) is wkv6_chunked
    with pytest.raises(KeyError), wkv_backend("recurrent"):
        raise KeyError
    assert form_for(1) is wkv6_chunked
    wkv_backend("recurrent")
    assert form_for(9) is wkv6_recurrent
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(kernels, "_forced", None)
    assert form_for(9) is wkv6_numba


def test_an_unknown_name_is_refused_with_those_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = "must be one of auto, recurrent, chunked, numba, fla"
    assert BACKENDS == ("auto", "recurrent", "chunked", "numba", "fla")
    with pytest.raises(ValueError, match=f"'cuda'; it {allowed}"):
        wkv_backend("cuda")
    monkeypatch.setenv(VARIABLE, "triton")
    for ask in (lambda: wkv6(**draw(3)), lambda: describe_backend("cpu")):
        with pytest.raises(ValueError, match=f"RWKVGATE_WKV is 'triton'; it {allowed}"):
            ask()


@pytest.mark.parametrize("source", ["wkv_backend", "RWKVGATE_WKV"])
def test_a_forced_package_that_cannot_run_says_why(
    fla: Fla, capability: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    capability((7, 5))
    if source == "wkv_backend":
        monkeypatch.setattr(kernels, "_forced", "fla")
    else:
        monkeypatch.setenv(VARIABLE, "fla")
    reason = f"{source} asks for the WKV backend 'fla', which cannot run here: compute capability 7.5 < 8.0"
    for ask in (lambda: wkv6(**draw(3)), lambda: wkv6(**draw(1)), lambda: describe_backend("cpu")):
        with pytest.raises(RuntimeError, match=reason):
            ask()


def test_a_forced_package_that_can_run_is_described(fla: Fla) -> None:
    with wkv_backend("fla"):
        found = describe_backend("cpu")
    assert found["name"] == "fla" and found["reason"].startswith("forced by wkv_backend; compute capability 8.0")


def test_the_operator_does_not_import_a_package_by_itself() -> None:
    code = "import sys, rwkvgate.rwkv6.wkv; sys.exit('fla' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_whole_network_runs_on_the_package(fla: Fla, tiny_model: Any, tokens: Any, relative_error: Callable) -> None:
    model, ids = tiny_model("enhanced", torch.float32), tokens(2, 70)
    found = model(ids).logits
    assert fla.calls
    with wkv_backend("recurrent"):
        assert relative_error(found, model(ids).logits) < 1e-4
