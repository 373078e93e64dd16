"""Tangle measures against a trusted twin; the timings' layers against each other; packed weights in bfloat16; pictures."""

from importlib import import_module

import networkx
import numpy as np
import pytest
import torch

from shared import runlog

bench, contenders, noodles, roofline, spaghettinet, tangle, timings, wirings = (
    import_module(f"sprints.02_spaghettinet.code.{name}")
    for name in ("bench", "contenders", "noodles", "roofline", "spaghettinet", "tangle", "timings", "wiring")
)
SpaghettiLayer, Case = spaghettinet.SpaghettiLayer, contenders.Case


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["random", "bundle", "small_world"])
def test_measures_equal_those_of_networkx(name):
    indices = wirings.draw(name, 48, 32, 5, generator())
    found = tangle.measure(indices, 48)
    graph = networkx.Graph((("out", o), ("in", int(i))) for o, row in enumerate(indices) for i in row)
    outputs = [node for node in graph if node[0] == "out"]
    overlaps = [
        len(a & b) / len(a | b)
        for place, one in enumerate(outputs)
        for other in outputs[:place]
        if (a := set(graph[one])) & (b := set(graph[other]))
    ]
    assert np.isclose(found["clustering"], np.mean(overlaps))
    lengths = [steps for _, row in networkx.all_pairs_shortest_path_length(graph) for steps in row.values() if steps]
    assert abs(found["path_length"] - np.mean(lengths)) < 0.15, "64 of 80 nodes are the sources"
    matrix = networkx.bipartite.biadjacency_matrix(graph, outputs).toarray()
    scaled = matrix / np.sqrt(np.outer(matrix.sum(1), matrix.sum(0)))
    values = np.linalg.svd(scaled, compute_uv=False)
    assert np.isclose(values[0], 1) and np.isclose(found["singular_value"], values[1])
    assert found["dead_inputs"] == (48 - sum(node[0] == "in" for node in graph)) / 48


def test_measures_of_wirings_whose_values_are_known():
    everything = tangle.measure(torch.arange(16).expand(16, 16), 16)
    assert np.isclose(everything["entropy"], 1) and everything["degree_spread"] == everything["dead_inputs"] == 0
    assert np.isclose(everything["clustering"], 1) and everything["singular_value"] < 1e-6
    assert np.isclose(everything["path_length"], (16 * 1 + 15 * 2) / 31)
    apart = tangle.measure(torch.arange(16)[:, None], 16)
    assert apart["path_length"] == 1 and apart["clustering"] == 0 and np.isclose(apart["singular_value"], 1)


def test_random_wiring_is_near_the_best_expander_and_neighbours_are_not():
    random, local = (
        tangle.measure(wirings.draw(name, 784, 512, 40, generator(), grid=(28, 28)), 784) for name in ("random", "small_world")
    )
    assert random["singular_value"] < 1.1 * random["best_singular_value"]
    assert local["singular_value"] > 2 * local["best_singular_value"] and local["path_length"] > random["path_length"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("mode", contenders.MODES)
@pytest.mark.parametrize("batch", [1, 5])
def test_all_layers_that_are_timed_compute_what_they_should(mode, batch):
    case = Case(64, 32, batch, 0.8)
    if mode == "forward":
        with torch.no_grad():
            found = {name: call() for name, call in contenders.forward(case, "cpu").items()}
        alike = [contenders.MASKED, contenders.CSR, contenders.SCIPY, contenders.TORCH]
        for name in alike:
            torch.testing.assert_close(found[name], found[contenders.RANDOM], rtol=1e-4, atol=1e-5)
        if contenders.ONEDNN in found:
            torch.testing.assert_close(found[contenders.ONEDNN], found[contenders.LINEAR], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[contenders.PACKED], found[contenders.BUNDLE], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[contenders.HALF], found[contenders.BUNDLE], rtol=0.05, atol=0.05)
        return
    for name, call in contenders.training(case, "cpu", mode).items():
        call()
        assert call() is None, name
    gradients = {}
    for name, layer in contenders.layers(case, "cpu").items():
        x = torch.ones(batch, 64, requires_grad=True)
        layer(x).square().sum().backward()
        gradients[name] = x.grad, layer.bias.grad
    for name in (contenders.MASKED, contenders.CSR, contenders.TORCH):
        torch.testing.assert_close(gradients[name], gradients[contenders.RANDOM], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not contenders.has_onednn(), reason="this build of torch has no oneDNN linear")
def test_the_onednn_layer_has_the_gradients_of_nn_linear():
    twin = torch.nn.Linear(20, 12)
    x = torch.randn(7, 20, generator=generator()).requires_grad_()
    seen, inputs = torch.randn(7, 12, generator=generator()), (x, twin.weight, twin.bias)
    theirs = torch.autograd.grad(twin(x), inputs, seen)
    ours = torch.autograd.grad(contenders.OneDNN.apply(x, twin.weight, twin.bias), inputs, seen)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fan_in", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("rows", [1, 3])
def test_packed_bfloat16_is_the_layer_with_rounded_weights(fan_in, rows):
    for name, grid in (("bundle", None), ("local_bundle", (8, 8))):
        layer = SpaghettiLayer(64, 48, fan_in=fan_in, wiring=name, grid=grid, seed=0)
        layer.bias.data.normal_()
        x = torch.randn(rows, 64, generator=generator())
        half, full = layer.pack(torch.bfloat16), layer.pack()
        torch.testing.assert_close(full(x), layer(x).detach(), rtol=1e-4, atol=1e-5)
        layer.weight.data = layer.weight.data.bfloat16().float()
        torch.testing.assert_close(half(x), layer(x).detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(half._gather(x), layer(x).detach(), rtol=1e-4, atol=1e-5)
        assert half.weight.nbytes * 2 == full.weight.nbytes and "weights=bfloat16" in repr(half)
        assert torch.equal(half(x.reshape(rows, 1, 64)), half(x).reshape(rows, 1, 48))
    with pytest.raises(ValueError, match=r"float32 or bfloat16; got torch\.float16"):
        layer.pack(torch.float16)


def test_a_packed_layer_calls_its_hooks_and_refuses_to_become_something_else():
    packed, x, seen = SpaghettiLayer(64, 32, wiring="bundle", seed=0).pack(), torch.ones(1, 64), []
    hook = packed.register_forward_hook(lambda layer, given, y: seen.append(y))
    y = packed(x)
    assert seen[0] is y
    hook.remove()
    assert torch.equal(packed(x), y) and len(seen) == 1
    packed.weight.mul_(2)
    torch.testing.assert_close(packed(x), 2 * y)
    with pytest.raises(ValueError, match=r"its weight has become torch\.float64 on cpu"):
        packed.double()(x)
    assert torch.equal(packed.float()(x), 2 * y)


def test_an_infinite_input_reaches_only_those_that_read_it():
    layer = SpaghettiLayer(64, 32, fan_in=3, wiring="bundle", seed=0)
    x = torch.ones(1, 64)
    x[0, 5] = float("inf")
    reads = (layer.indices == 5).any(1)
    for packed in (layer.pack(), layer.pack(torch.bfloat16)):
        assert torch.equal(packed(x)[0].isfinite(), ~reads)


def test_where_lines_cross():
    assert timings.crossing((0.5, 0.7, 0.9), np.array([2.0, 1.0, -1.0])) == pytest.approx(0.8)
    assert timings.crossing((0.5, 0.7), np.array([-1.0, -2.0])) == 0.5
    assert timings.crossing((0.5, 0.7), np.array([3.0, 1.0])) == 0.7


def test_needs_of_a_product():
    case = Case(1000, 1000, 1, 0.9)
    assert roofline.needs(case, contenders.LINEAR, False) == (4e6 + 8000, 2e6)
    moved, computed = roofline.needs(case, contenders.PACKED, False)
    assert moved == pytest.approx(4.75e5 + 8000) and computed == pytest.approx(2e5)
    assert roofline.limit(case, contenders.PACKED, False, 1e9, 1e12) == pytest.approx(moved / 1e9)


def test_races_are_interleaved_and_begin_with_another_each_round(monkeypatch):
    order = []
    timed = {name: lambda name=name: order.append(name) for name in "abc"}
    monkeypatch.setattr(bench, "calls_per_sample", lambda call, device: 1)
    seconds = bench.race(timed, 3, "cpu")
    assert "".join(order[::2]) == "".join(order[1::2]) == "abcbcacab", "one call to warm up, then the one that is timed"
    assert all(len(one) == 3 for one in seconds.values())


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_on_in_a_race_of_trainings_only(training):
    seen = []
    bench.race({"a": lambda: seen.append(torch.is_grad_enabled())}, 2, "cpu", training)
    assert set(seen) == {training}


@pytest.mark.parametrize("text", ["784", "784x", "10x20", "0x16"])
def test_a_shape_that_does_not_fit_is_named(text):
    with pytest.raises(bench.UserError, match="--shapes"):
        bench.shape(text)


def test_pictures_fit_into_the_repository(tmp_path):
    image = np.random.default_rng(0).random((28, 28))
    tables = {name: wirings.draw(name, 784, 1024, 8, generator(), grid=(28, 28)) for name in wirings.WIRINGS[:4]}
    weight = np.random.default_rng(0).normal(size=(30, 784))
    with runlog.style() as plt:
        for name, figure in {
            "plate": noodles.plate(plt, tables, image),
            "fields": noodles.fields(plt, {name: (weight, weight > 0) for name in "abcd"}, (28, 28)),
        }.items():
            figure.savefig(tmp_path / f"{name}.png")
            plt.close(figure)
            assert 10_000 < (tmp_path / f"{name}.png").stat().st_size < 1_000_000
