"""Products on a CPU: the compiled loops against torch in float64, and half precision by float32."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rwkvgate import GateConfig, Rwkv6Config, Rwkv6ForCausalLM, patch
from rwkvgate.rwkv6 import compiled, products
from rwkvgate.rwkv6 import linear as module
from rwkvgate.rwkv6.linear import FEW, Linear, baddbmm, linear
from rwkvgate.rwkv6.loss import next_token_loss
from rwkvgate.rwkv6.products import product


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is found once is found anew."""
    yield
    module._compiled_product.cache_clear()
    module.multiplies.cache_clear()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the products that the loops make; no weight is too small for them."""
    shapes: list[tuple[int, ...]] = []

    def watched(x: Tensor, weight: Tensor) -> Tensor:
        shapes.append((*x.shape, len(weight)))
        return product(x, weight)

    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(module, "_compiled_product", lambda: watched)
    return shapes


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 12, 16, 17])
@pytest.mark.parametrize(("size", "out"), [(1, 1), (7, 3), (64, 4), (33, 5), (300, 130)])
def test_the_loops_against_float64(rows: int, size: int, out: int) -> None:
    x, weight = draw(rows, size), draw(out, size)
    exact = x.double() @ weight.double().t()
    assert (product(x, weight) - exact).abs().max() <= 1e-6 * size**0.5 * max(1, exact.abs().max())


def test_infinite_and_missing_numbers_stay() -> None:
    x, weight = draw(1, 9), draw(4, 9)
    weight[0, 3], weight[1, 4] = torch.inf, torch.nan
    found = product(x, weight)[0]
    assert found[0].isinf() and found[1].isnan() and found[2:].isfinite().all()


@pytest.mark.parametrize("rows", [3, 8, 13, 16])
def test_a_row_knows_nothing_of_the_values_of_others(rows: int) -> None:
    x, weight = draw(rows, 70), draw(30, 70)
    wanted = product(x, weight)
    for i in range(rows):
        alone = torch.full_like(x, torch.nan)
        alone[i] = x[i]
        assert torch.equal(product(alone, weight)[i], wanted[i])


def test_threads_change_no_bit_and_other_rows_few(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = draw(5, 70), draw(30, 70)
    wanted = product(x, weight)
    for i in range(5):
        torch.testing.assert_close(product(x[i : i + 1], weight)[0], wanted[i], rtol=0, atol=1e-5)
    monkeypatch.setattr(compiled, "PARALLEL", 0)
    for threads in (2, 3, 40):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(product(x, weight), wanted)


def test_a_weight_that_the_loops_have_read_can_still_be_freed() -> None:
    weight = nn.Parameter(draw(8, 8))
    product(draw(1, 8), weight)
    assert weight.untyped_storage().resizable()


def test_few_rows_of_a_large_weight_take_the_loops(taken: list[tuple[int, ...]]) -> None:
    layer = Linear(6, 5)
    with torch.no_grad():
        for x in (draw(2, 3, 6), draw(6), draw(16, 1, 6), draw(6, 4).t()):
            torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=0, atol=1e-5)
    assert taken == [(6, 6, 5), (1, 6, 5), (16, 6, 5), (4, 6, 5)]


def test_whatever_the_loops_cannot_do_is_left_to_torch(taken: list[tuple[int, ...]]) -> None:
    layer, x = Linear(6, 5), draw(2, 6)
    out = layer(x)
    out.sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, x.sum(0).expand(5, 6))
    with torch.no_grad():
        layer(draw(FEW + 1, 6))
        layer(draw(0, 6))
        linear(x.double(), layer.weight.double())
        linear(x.bfloat16(), layer.weight.bfloat16())
        linear(x, draw(6, 5).t())
        linear(x, draw(5, 6).to_sparse_csr())
        torch.compile(layer, backend="eager")(x)
        torch.vmap(layer)(x)
        with FlopCounterMode(display=False) as counted:
            layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        for width in (5, 7):
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                layer(draw(1, width))
    layer.to("meta")(x.to("meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        Linear(6, 5)(x.to("meta"))
    assert taken == [] and counted.get_total_flops() == 2 * 2 * 6 * 5


def test_a_model_decodes_alike(taken: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "head_size": 16}
    model = patch(Rwkv6ForCausalLM(Rwkv6Config(**sizes)), GateConfig.preset("enhanced")).eval()
    prompt = torch.randint(50, (2, 9))
    found = model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
    count = len(taken)
    monkeypatch.setattr(module, "LARGE", 2**20)
    assert torch.equal(model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None), found)
    assert len(taken) == count == 1 + 11 * (2 * 9 + 1)  # the prompt's 18 rows are too many, but for the head


@pytest.mark.parametrize(
    ("failure", "said"), [(RuntimeError("no\nmore"), "raised RuntimeError: no"), (None, "errs by")]
)
def test_loops_that_fail_or_err_are_warned_of_once_and_not_taken(
    failure: Exception | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(x: Tensor, weight: Tensor) -> Tensor:
        if failure:
            raise failure
        return x @ weight.t() + 1e-3

    monkeypatch.setattr(products, "product", wrong)
    monkeypatch.setattr(module, "LARGE", 0)
    x, weight = draw(2, 6), draw(5, 6)
    with pytest.warns(RuntimeWarning, match=said) as warned:
        assert torch.equal(linear(x, weight), F.linear(x, weight)) and torch.equal(linear(x, weight), linear(x, weight))
    assert len(warned) == 1


def test_without_numba_torch_makes_every_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "rwkvgate.rwkv6.compiled")
    x, weight = draw(2, 6), draw(5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_without_threads_torch_makes_every_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_openmp", lambda: None)
    assert module._compiled_product() is None


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])


@pytest.fixture
def no_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies no half precision."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})


@HALVES
@pytest.mark.filterwarnings("ignore:this processor")
@pytest.mark.usefixtures("no_half")
def test_half_precision_by_float32_is_rounded_once(dtype: torch.dtype) -> None:
    x, weight, bias = draw(3, 40, dtype=dtype), draw(7, 40, dtype=dtype).requires_grad_(), draw(7, dtype=dtype)
    found = linear(x, weight, bias)
    exact = x.double() @ weight.double().t() + bias.double()
    assert found.dtype == dtype and torch.equal(found, exact.to(dtype))
    found.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == dtype
    torch.testing.assert_close(weight.grad[0], x.double().sum(0).to(dtype), rtol=1e-2, atol=1e-2)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one):
        linear(x.clone().requires_grad_(), weight.detach())
    assert {one.dtype for one in saved} == {dtype}  # no wide copy of a weight is kept
    with pytest.raises(RuntimeError, match="same dtype"):
        linear(x.float(), weight)
    shared = baddbmm(draw(2, 1, 6, dtype=dtype), draw(2, 3, 5, dtype=dtype), draw(2, 5, 6, dtype=dtype))
    assert shared.dtype == dtype and shared.shape == (2, 3, 6)


@HALVES
@pytest.mark.filterwarnings("ignore:this processor")
@pytest.mark.usefixtures("no_half")
def test_gradients_by_float32_against_float64(dtype: torch.dtype) -> None:
    leaves = [draw(2, 3, 40, dtype=dtype), draw(7, 40, dtype=dtype), draw(7, dtype=dtype)]
    wide = [leaf.double().requires_grad_() for leaf in leaves]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    upstream = draw(2, 3, 7, dtype=dtype)
    found = torch.autograd.grad(linear(*leaves), leaves, upstream)
    exact = torch.autograd.grad(F.linear(*wide), wide, upstream.double())
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    twice = []
    for own, function in ((leaves, linear), (wide, F.linear)):
        (slope,) = torch.autograd.grad(function(*own), own[0], upstream.to(own[0].dtype), create_graph=True)
        twice.append(torch.autograd.grad(slope.sum(), own[1])[0])
    torch.testing.assert_close(twice[0], twice[1].to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-2)


@HALVES
@pytest.mark.filterwarnings("ignore:this processor")
@pytest.mark.usefixtures("no_half")
def test_autocast_is_obeyed(dtype: torch.dtype) -> None:
    x, weight = draw(3, 40), draw(7, 40)
    with torch.autocast("cpu", dtype):
        found = linear(x, weight)
        double = linear(x.double(), weight.double())
    assert torch.equal(found, linear(x.to(dtype), weight.to(dtype))) and double.dtype == torch.float64


@HALVES
@pytest.mark.filterwarnings("ignore:this processor")
def test_the_loss_is_the_same_with_and_without_the_processors_help(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight = draw(2, 9, 16, dtype=dtype).requires_grad_(), draw(30, 16, dtype=dtype).requires_grad_()
    labels = torch.randint(30, (2, 9), generator=torch.Generator().manual_seed(0))

    def found() -> list[Tensor]:
        loss = next_token_loss(hidden, weight, labels)
        return [loss, *torch.autograd.grad(loss, (hidden, weight))]

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", **dict.fromkeys(flags, True)})
    with_help = found()
    module.multiplies.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    for one, other in zip(found(), with_help, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-3)


flags = [flag for several in module.FLAGS.values() for flag in several]


@pytest.mark.usefixtures("no_half")
def test_the_sentence_names_type_and_remedy_and_comes_once() -> None:
    with pytest.warns(RuntimeWarning, match="multiplies no float16, .* dtype=torch.float32 is faster") as warned:
        for _ in range(2):
            linear(draw(2, 4, dtype=torch.float16), draw(3, 4, dtype=torch.float16))
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("found", "multiplied"),
    [
        ({"architecture": "x86_64", "avx512_fp16": True}, True),
        ({"architecture": "x86_64", "avx512_bf16": True}, False),
        ({"architecture": "aarch64"}, True),
    ],
)
@pytest.mark.filterwarnings("ignore:this processor")
def test_what_a_processor_multiplies(
    found: dict[str, object], multiplied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert module.multiplies(torch.float16) is multiplied and module.multiplies(torch.float32)


@pytest.mark.usefixtures("no_half")
@pytest.mark.filterwarnings("ignore:this processor")
@pytest.mark.parametrize("gated", [False, True], ids=["base", "gated"])
@HALVES
def test_a_model_in_half_precision_stays_there(dtype: torch.dtype, gated: bool) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "head_size": 16}
    model = Rwkv6ForCausalLM(Rwkv6Config(**sizes)).to(dtype).eval()
    model = patch(model, GateConfig.preset("enhanced")) if gated else model
    ids = torch.randint(50, (2, 9))
    with torch.no_grad():
        whole = model(ids).logits
        state = model(ids[:, :5], use_cache=True).past_key_values
        rest = [model(ids[:, t : t + 1], past_key_values=state, use_cache=True) for t in (5,)]
    assert whole.dtype == rest[0].logits.dtype == dtype
    torch.testing.assert_close(rest[0].logits[:, 0], whole[:, 5], rtol=5e-2, atol=5e-2)
