"""The sparse layer: every engine against the dense twin, derivatives, saving, precision, and what it refuses."""

import copy
import io
import pickle
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

spaghettinet = import_module("sprints.02_spaghettinet.code.spaghettinet")
SpaghettiLayer, SpaghettiNet = spaghettinet.SpaghettiLayer, spaghettinet.SpaghettiNet
ENGINES = ("c", "torch", "masked")
LEADING = [(), (1,), (7,), (16,), (63,), (65,), (130,), (2, 3), (4, 1, 17), (0,), (2, 0, 3)]


def twin(layer, x, seen):
    """Output and gradients (x, weight at the connections, bias) of the dense layer, for the gradient `seen` of its output."""
    dense, x = layer.to_dense(), x.detach().clone().requires_grad_()
    y = dense(x)
    y.backward(seen)
    return y.detach(), x.grad, dense.weight.grad.gather(1, layer.indices.long()), None if layer.bias is None else dense.bias.grad


def close(ours, theirs, tolerance=1e-5):
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-12


def strided(shape, how, generator):
    """A tensor of that shape whose memory order is not that of its indices."""
    if how == "feature_major" and len(shape) > 1:
        return torch.randn(*shape[:-2], shape[-1], shape[-2], generator=generator).transpose(-1, -2)
    if how == "every_other":
        return torch.randn(*shape[:-1], 2 * shape[-1], generator=generator)[..., ::2]
    if how == "expanded":
        return torch.randn(shape[-1], generator=generator).expand(shape)
    return torch.randn(shape, generator=generator)


@st.composite
def cases(draw):
    wiring = draw(st.sampled_from(["random", "bundle", "local_bundle", "small_world"]))
    if wiring == "local_bundle":
        grid = draw(st.sampled_from([(8, 8), (4, 12), (8, 4)]))
        inputs, outputs = grid[0] * grid[1], 16 * draw(st.integers(1, 5))
    else:
        grid, step = None, 16 if wiring == "bundle" else 1
        inputs, outputs = step * draw(st.integers(1, 80 // step)), step * draw(st.integers(1, 80 // step))
    size = {"fan_in": draw(st.integers(1, inputs)), "wiring": wiring, "grid": grid, "bias": draw(st.booleans())}
    how = draw(st.sampled_from(["contiguous", "feature_major", "every_other", "expanded"]))
    return (inputs, outputs), size, draw(st.sampled_from(LEADING)), how, draw(st.integers(0, 999))


@settings(max_examples=150, derandomize=True, database=None)
@given(cases())
def test_engines_equal_the_dense_twin(case):
    (inputs, outputs), size, leading, how, seed = case
    generator = torch.Generator().manual_seed(seed)
    x, seen = strided((*leading, inputs), how, generator), torch.randn(*leading, outputs, generator=generator)
    for engine in ENGINES:
        layer = SpaghettiLayer(inputs, outputs, **size, seed=seed, engine=engine)
        if layer.bias is not None:
            layer.bias.data.normal_(generator=generator)
        mine = x.detach().requires_grad_()
        y = layer(mine)
        y.backward(seen)
        for ours, theirs in zip(
            (y.detach(), mine.grad, layer.weight.grad, None if layer.bias is None else layer.bias.grad),
            twin(layer, x, seen),
            strict=True,
        ):
            close(ours, theirs)
        with torch.no_grad():
            assert torch.equal(layer(x), y)
        if engine == "c" and "bundle" in size["wiring"]:
            close(layer.pack()(x), y)


@pytest.mark.parametrize("engine", ["torch", "masked", "auto"])
@pytest.mark.parametrize(("inputs", "outputs", "fan_in"), [(7, 5, 3), (6, 4, 6), (5, 3, 1)])
def test_first_and_second_derivatives_in_float64(engine, inputs, outputs, fan_in):
    layer = SpaghettiLayer(inputs, outputs, fan_in=fan_in, seed=0, engine=engine, dtype=torch.float64)
    x = torch.randn(4, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x).tanh()

    inputs = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_gradient_penalty_through_the_c_engine_equals_the_dense_twin():
    layer = SpaghettiLayer(32, 16, fan_in=5, seed=0, engine="c")
    x = torch.randn(9, 32, requires_grad=True)

    def penalty(function):
        (gradient,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        return gradient.square().sum()

    dense = layer.to_dense()
    penalty(layer).backward()
    penalty(dense).backward()
    close(layer.weight.grad, dense.weight.grad.gather(1, layer.indices.long()))


@pytest.mark.parametrize("engine", ENGINES)
def test_only_what_needs_a_gradient_gets_one(engine):
    for frozen in ("weight", "bias"):
        layer = SpaghettiLayer(32, 16, wiring="bundle", seed=0, engine=engine)
        getattr(layer, frozen).requires_grad_(False)
        x = torch.randn(5, 32)
        layer(x).sum().backward()
        kept = layer.bias if frozen == "weight" else layer.weight
        assert getattr(layer, frozen).grad is None and kept.grad is not None and x.grad is None
    layer.requires_grad_(False)
    assert not layer(x).requires_grad
    layer(x.requires_grad_()).sum().backward()
    close(x.grad, layer.to_dense().weight.sum(0).expand(5, 32))


@pytest.mark.parametrize("engine", ENGINES)
def test_autocast_computes_in_float32(engine):
    layer = SpaghettiLayer(64, 32, wiring="bundle", seed=0, engine=engine)
    x = torch.randn(8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.float32 and torch.equal(y, layer(x))
        mixed = layer(F.linear(x, torch.eye(64)))  # bfloat16 comes in
        assert mixed.dtype == torch.float32
        layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    close(mixed, y, 1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_go_through_another_engine(dtype):
    layer = SpaghettiLayer(64, 32, seed=0).to(dtype)
    x = torch.randn(8, 64, dtype=dtype)
    assert layer(x).dtype == dtype
    close(layer(x).float(), layer.float()(x.float()), 2e-2)


@pytest.mark.parametrize("wiring", ["random", "bundle"])
def test_copies_of_every_kind_compute_the_same(wiring):
    layer, x = SpaghettiLayer(64, 32, wiring=wiring, seed=3), torch.randn(5, 64)
    y = layer(x)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    size = buffer.tell()
    buffer.seek(0)
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)):
        assert torch.equal(made(x), y) and torch.equal(made.indices, layer.indices)
    fresh = io.BytesIO()
    torch.save(SpaghettiLayer(64, 32, wiring=wiring, seed=3), fresh)
    assert size <= fresh.tell() + 64, "what the engines derive is not saved"
    if wiring == "bundle":
        packed = layer.pack()
        assert torch.equal(pickle.loads(pickle.dumps(packed))(x), packed(x))
        assert torch.equal(copy.deepcopy(packed)(x), packed(x))


def test_a_state_dict_fits_every_engine_and_only_its_own_wiring():
    layers = {engine: SpaghettiLayer(64, 32, seed=3, engine=engine) for engine in ENGINES}
    x, state = torch.randn(5, 64), {name: tensor.clone() for name, tensor in layers["c"].state_dict().items()}
    assert set(state) == {"weight", "bias", "indices"} and state["indices"].dtype == torch.int32
    state["weight"].mul_(2)
    for layer in layers.values():
        layer.load_state_dict(state)
        close(layer(x), layers["c"](x))
    other = SpaghettiLayer(64, 32, seed=4)
    before = other.weight.detach().clone()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"another wiring.*adopt_wiring"):
            other.load_state_dict(state, strict=strict)
    assert torch.equal(other.weight, before)
    spaghettinet.adopt_wiring(other, state)
    other.load_state_dict(state)
    assert torch.equal(other(x), layers["c"](x))
    SpaghettiLayer(64, 32, wiring=state["indices"]).load_state_dict(state)
    for layer in layers.values():
        layer.load_state_dict(state | {"indices": state["indices"].long()}, assign=True)
        close(layer(x), other(x))
    net, peer = (SpaghettiNet([64, 32, 16, 10], seed=seed) for seed in (0, 1))
    spaghettinet.adopt_wiring(peer, net.state_dict())
    peer.load_state_dict(net.state_dict())
    assert torch.equal(peer(x), net(x))


def test_dense_layers_go_in_and_out():
    dense, x = torch.nn.Linear(64, 32), torch.randn(5, 64)
    close(SpaghettiLayer.from_linear(dense, sparsity=0.0)(x), dense(x))
    pruned = SpaghettiLayer.from_linear(dense, fan_in=6)
    kept = pruned.to_dense().weight
    assert ((kept != 0).sum(1) == 6).all() and torch.equal(kept[kept != 0], dense.weight[kept != 0])
    assert pruned.weight.abs().amin(1).ge((dense.weight * (kept == 0)).abs().amax(1)).all()
    close(pruned.to_dense()(x), pruned(x))
    assert SpaghettiLayer.from_linear(torch.nn.Linear(8, 4, bias=False, dtype=torch.float64), fan_in=2).bias is None


def test_seeds_decide_and_the_global_generator_stays():
    state = torch.get_rng_state()
    made = [SpaghettiNet([64, 32, 32, 10], wiring="bundle", seed=seed) for seed in (5, 5, 6, None)]
    made[0](torch.ones(1, 64)).sum().backward()
    for make in (made[0][0].to_dense, made[0][0].pack, lambda: SpaghettiLayer.from_linear(made[0][-1], fan_in=3)):
        make()
    assert torch.equal(state, torch.get_rng_state())
    same = [torch.equal(p, q) for p, q in zip(made[0].state_dict().values(), made[1].state_dict().values(), strict=True)]
    assert all(same)
    assert not torch.equal(made[0][0].indices, made[2][0].indices) and not torch.equal(made[0][0].weight, made[3][0].weight)
    again = SpaghettiLayer(64, 32, wiring="bundle", seed=made[3][0].seed)
    assert torch.equal(again.weight, made[3][0].weight), "seed=None keeps the seed that it drew"


@pytest.mark.parametrize("fan_in", [4, 64, 400])
def test_outputs_start_with_the_variance_that_kaiming_promises(fan_in):
    layer = SpaghettiLayer(400, 800, fan_in=fan_in, seed=0)
    y = layer(torch.randn(200, 400, generator=torch.Generator().manual_seed(0)))
    assert y.var().item() == pytest.approx(2, rel=0.1)


def test_sparse_weights_learn_with_a_larger_rate():
    net = SpaghettiNet([100, 60, 40, 10], sparsity=0.9, seed=0)
    groups = spaghettinet.param_groups(net, lr=1e-3)
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(net[0].weight)] == pytest.approx(1e-2) and rate[id(net[2].weight)] == pytest.approx(1e-2)
    assert rate[id(net[0].bias)] == rate[id(net[-1].weight)] == 1e-3
    lone = spaghettinet.param_groups(SpaghettiLayer(1000, 2, fan_in=1, bias=False), lr=1.0)
    assert [group["lr"] for group in lone] == [30.0]
    torch.optim.Adam(groups)


def test_torch_compile_traces_the_layer():
    layer, x = SpaghettiLayer(64, 32, seed=0), torch.randn(5, 64)
    close(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x))


LAYER = SpaghettiLayer(32, 16, fan_in=4, seed=0)
TABLE = torch.arange(4).expand(16, 4)
REFUSED = {
    "fan_in must be 1 to in_features = 32; got 33": lambda: SpaghettiLayer(32, 16, fan_in=33),
    "fan_in must be 1 to in_features = 32; got 0": lambda: SpaghettiLayer(32, 16, fan_in=0),
    r"sparsity must be in \[0, 1\); got 1": lambda: SpaghettiLayer(32, 16, sparsity=1.0),
    r"sparsity must be in \[0, 1\); got nan": lambda: SpaghettiLayer(32, 16, sparsity=float("nan")),
    r"fan_in must be .* got 3\.5": lambda: SpaghettiLayer(32, 16, fan_in=3.5),
    "do not fit together": lambda: torch.func.functional_call(LAYER, {"weight": torch.ones(16, 9)}, torch.ones(2, 32)),
    "sparsity or fan_in, not both": lambda: SpaghettiLayer(32, 16, sparsity=0.5, fan_in=3),
    "at least 1; got 0, 16": lambda: SpaghettiLayer(0, 16),
    "rewire_p must be": lambda: SpaghettiLayer(32, 16, rewire_p=1.5),
    "engine must be one of .*'cuda'": lambda: SpaghettiLayer(32, 16, engine="cuda"),
    "wiring must be one of .*'web'": lambda: SpaghettiLayer(32, 16, wiring="web"),
    "'local_bundle' needs grid": lambda: SpaghettiLayer(32, 16, wiring="local_bundle"),
    "grid 5 x 6 does not have in_features = 32": lambda: SpaghettiLayer(32, 16, wiring="local_bundle", grid=(5, 6)),
    "sides are multiples of 4; got 2 x 16": lambda: SpaghettiLayer(32, 16, wiring="local_bundle", grid=(2, 16)),
    "multiples of 16 inputs and outputs; got 32 and 10": lambda: SpaghettiLayer(32, 10, wiring="bundle"),
    "needs input_std": lambda: SpaghettiLayer(32, 16, wiring="variance"),
    "32 finite values": lambda: SpaghettiLayer(32, 16, wiring="variance", input_std=torch.ones(31)),
    "index 32 is outside 0 to 31": lambda: SpaghettiLayer(32, 16, wiring=TABLE + 29),
    "index -1 is outside": lambda: SpaghettiLayer(32, 16, wiring=TABLE - 1),
    "reads the same input twice": lambda: SpaghettiLayer(32, 16, wiring=TABLE // 2),
    "table of integers": lambda: SpaghettiLayer(32, 16, wiring=TABLE.float()),
    "contradict": lambda: SpaghettiLayer(32, 15, wiring=TABLE),
    "contradict out_features, sparsity or fan_in": lambda: SpaghettiLayer(32, 16, wiring=TABLE, fan_in=5),
    r"expected \(..., 32\); got \(3, 31\)": lambda: LAYER(torch.ones(3, 31)),
    r"expected \(..., 32\); got \(\)": lambda: LAYER(torch.ones(())),
    "floating-point input; got torch.int64": lambda: LAYER(torch.ones(3, 32, dtype=torch.long)),
    "the layer is torch.float32 on cpu; got torch.float64": lambda: LAYER(torch.ones(3, 32, dtype=torch.float64)),
    "engine 'c' computes float32": lambda: SpaghettiLayer(32, 16, engine="c").double()(torch.ones(3, 32).double()),
    "only a bundle can be packed": lambda: LAYER.pack(),
    "is float32 on the CPU": lambda: SpaghettiLayer(32, 16, wiring="bundle").double().pack(),
    r"expected float32 \(..., 32\)": lambda: SpaghettiLayer(32, 16, wiring="bundle").pack()(torch.ones(3, 16)),
    "has no gradients": lambda: SpaghettiLayer(32, 16, wiring="bundle").pack()(torch.ones(3, 32, requires_grad=True)),
    "grid 4 x 4 does not have in_features = 32": lambda: SpaghettiLayer(32, 16, grid=(4, 4)),
    r"the wiring is \(16, 4\); got \(16, 5\)": lambda: LAYER.rewire(torch.zeros(16, 5, dtype=torch.int32)),
    "sizes must be": lambda: SpaghettiNet([32, 10]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_with_one_clear_error(message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        REFUSED[message]()


@pytest.mark.parametrize("engine", ENGINES)
def test_indices_that_were_edited_in_place_are_checked_before_use(engine):
    layer, x = SpaghettiLayer(32, 16, fan_in=4, seed=0, engine=engine), torch.randn(3, 32)
    layer(x)
    layer.indices[0] = torch.tensor([31, 30, 29, 28])
    close(layer(x), layer.to_dense()(x))
    layer.indices[0, 0] = 10**6
    with pytest.raises(ValueError, match="index 1000000 is outside"):
        layer(x)
