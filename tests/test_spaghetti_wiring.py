"""Wirings, the NoodleDAG and the rewirer: what each promises, checked on what it draws."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

spaghettinet = import_module("sprints.02_spaghettinet.code.spaghettinet")
wirings = import_module("sprints.02_spaghettinet.code.wiring")
Rewirer = import_module("sprints.02_spaghettinet.code.rewire").Rewirer
SpaghettiLayer, SpaghettiNet, NoodleDAG = spaghettinet.SpaghettiLayer, spaghettinet.SpaghettiNet, spaghettinet.NoodleDAG
OPTIONS = {"local_bundle": {"grid": (8, 12)}, "variance": {"input_std": torch.linspace(0, 3, 96)}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, derandomize=True, database=None)
@given(st.sampled_from(wirings.WIRINGS), st.integers(1, 96), st.integers(1, 4), st.integers(0, 99))
def test_every_wiring_has_the_fan_in_asked_for_distinct_and_by_its_seed(name, fan_in, tiles, seed):
    options = OPTIONS.get(name, {})
    table = wirings.draw(name, 96, 16 * tiles, fan_in, generator(seed), **options)
    assert table.dtype == torch.int32 and table.shape == (16 * tiles, fan_in)
    wirings.check(table, 96)
    assert torch.equal(table, wirings.draw(name, 96, 16 * tiles, fan_in, generator(seed), **options))
    if 1 < fan_in < 90 and not (name == "local_bundle" and fan_in > 80):
        assert not torch.equal(table, wirings.draw(name, 96, 16 * tiles, fan_in, generator(seed + 1), **options))


@settings(max_examples=40, derandomize=True, database=None)
@given(st.sampled_from(["bundle", "local_bundle"]), st.integers(1, 96), st.integers(1, 4))
def test_an_entry_of_a_bundle_is_a_permutation_of_a_block(name, fan_in, tiles):
    layer = SpaghettiLayer(96, 16 * tiles, fan_in=fan_in, wiring=name, grid=(8, 12), seed=0)
    found = layer.structure.bundle
    assert found is not None and found.blocks.shape == (tiles, fan_in)
    assert (found.quads is None) == (name == "bundle") or fan_in == 96
    fan_out = torch.bincount(layer.indices.flatten(), minlength=96)
    patches = wirings.patch_order((8, 12), 96).long() if name == "local_bundle" else torch.arange(96)
    per_block = fan_out[patches].reshape(-1, 16)
    assert (per_block == per_block[:, :1]).all(), "all inputs of a block are read equally often"


def test_only_bundles_are_taken_for_bundles():
    for name in ("random", "small_world"):
        assert SpaghettiLayer(96, 32, wiring=name, seed=0, grid=(8, 12)).structure.bundle is None
    layer = SpaghettiLayer(96, 32, wiring="bundle", seed=0)
    table = layer.indices.clone()
    table[0, 0] = table[1, 0]
    layer.rewire(table)
    assert layer.structure.bundle is None


def test_small_world_goes_from_neighbours_to_random():
    ring = wirings.small_world(100, 50, 6, generator(), rewire_p=0.0)
    place = (torch.arange(50)[:, None] + 0.5) * 2 - 0.5
    far = (ring - place).abs()
    assert torch.minimum(far, 100 - far).max() <= 3.5
    grid = wirings.small_world(784, 64, 9, generator(), grid=(28, 28), rewire_p=0.0).long()
    spread = torch.stack([grid // 28, grid % 28])
    assert (spread.amax(2) - spread.amin(2)).max() <= 4
    moved = [
        (
            wirings.small_world(100, 400, 6, generator(), rewire_p=p).sort(1).values
            != wirings.small_world(100, 400, 6, generator(), rewire_p=0.0).sort(1).values
        )
        .any(1)
        .float()
        .mean()
        for p in (0.05, 0.3, 1.0)
    ]
    assert moved[0] < moved[1] < moved[2]
    everywhere = wirings.small_world(100, 4000, 6, generator(), rewire_p=1.0)
    assert torch.bincount(everywhere.flatten(), minlength=100).float().std() < 30  # 240 on average


def test_local_bundles_stay_near_and_reach_out_with_rewire_p():
    def spread(p):
        table = wirings.local_bundle(784, 1024, 39, generator(), grid=(28, 28), rewire_p=p).long()
        return torch.stack([table // 28, table % 28]).float().std(2).mean()

    assert spread(0.0) < spread(0.1) < spread(0.9)
    assert spread(0.0) < 4 < spread(0.9)


def test_variance_prefers_inputs_that_vary():
    std = torch.cat([torch.zeros(50), torch.ones(50), 4 * torch.ones(50)])
    read = torch.bincount(wirings.variance(150, 4000, 5, generator(), input_std=std).flatten(), minlength=150).reshape(3, 50).sum(1)
    assert read[0] == 0 and 3 < read[2] / read[1] < 4.5


@pytest.mark.parametrize("skip", [0.0, 0.4, 1.0])
def test_noodle_dag_equals_a_dense_reference(skip):
    made = NoodleDAG(20, [12, 30, 7], 5, fan_in=6, skip=skip, seed=0)
    x = torch.randn(9, 20, generator=generator()).requires_grad_()
    y = made(x)
    known = x
    for layer in made.levels:
        level = F.relu(layer.to_dense()(known))
        known = torch.cat([known, level], dim=-1)
    expected = made.readout(level)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)))
    third = made.levels[2].indices  # neurons 0-19 inputs, 20-31 first level, 32-61 second
    share = (third < 32).float().mean()
    assert share == skip if skip in (0.0, 1.0) else 0.1 < share < 0.7
    assert (made.levels[0].indices < 20).all()


def test_noodle_dag_follows_its_seed_and_cuts_a_fan_in_that_is_too_large():
    state = torch.get_rng_state()
    first, second, other = (NoodleDAG(6, [4, 4], 2, fan_in=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert [layer.fan_in for layer in first.levels] == [6, 9]
    assert all(torch.equal(p, q) for p, q in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert not torch.equal(first.readout.weight, other.readout.weight)
    for wrong in ({"skip": 1.5}, {"widths": []}):
        with pytest.raises(ValueError, match="needs widths and a skip"):
            NoodleDAG(**({"in_features": 4, "widths": [3], "out_features": 2} | wrong))


def test_later_layers_of_a_net_need_no_grid():
    for name, later in (("local_bundle", "bundle"), ("small_world", "random"), ("bundle", "bundle"), ("random", "random")):
        net = SpaghettiNet([64, 48, 32, 10], wiring=name, grid=(8, 8), seed=0)
        assert (net[0].wiring, net[2].wiring) == (name, later)
        assert net(torch.randn(3, 64)).shape == (3, 10) and isinstance(net[-1], torch.nn.Linear)


def train(method, optimizer_class, steps=10, **options):
    """A net that is trained and rewired; yields the layer, its table, weights and optimizer state before and after each rewiring."""
    net = SpaghettiNet([40, 24, 3], fan_in=8, seed=0)
    layer = net[0]
    optimizer = optimizer_class(net.parameters(), lr=0.01)
    rewirer = Rewirer(net, optimizer, method, steps=steps, every=3, **options)
    x, y = torch.randn(64, 40, generator=generator()), torch.randint(3, (64,), generator=generator())
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        dense = (layer.weight.grad.new_zeros(24, 40)).scatter(1, layer.indices.long(), layer.weight.grad)
        optimizer.step()
        before = (
            layer.indices.clone(),
            layer.weight.detach().clone(),
            {k: v.clone() for k, v in optimizer.state[layer.weight].items() if torch.is_tensor(v)},
        )
        if rewirer.step():
            yield layer, optimizer, before, dense
        else:
            assert torch.equal(layer.indices, before[0]) and torch.equal(layer.weight, before[1])


@pytest.mark.parametrize("method", ["set", "rigl"])
@pytest.mark.parametrize(
    "optimizer_class", [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), torch.optim.AdamW]
)
def test_rewiring_keeps_the_fan_in_and_moves_the_optimizer_state(method, optimizer_class):
    seen = 0
    for layer, optimizer, (indices, weight, state), _ in train(method, optimizer_class):
        seen += 1
        moved = layer.indices != indices
        wirings.check(layer.indices, 40)
        assert 0 < moved.sum() <= 0.3 * moved.numel() and moved.sum(1).unique().numel() > 1
        assert (layer.weight[moved] == 0).all() and torch.equal(layer.weight[~moved], weight[~moved])
        assert (layer.weight.grad[moved] == 0).all()
        assert weight[moved].abs().max() <= weight[~moved].abs().min(), "the weakest of the layer go"
        old = torch.zeros(24, 40, dtype=torch.bool).scatter(1, indices.long(), True)
        assert not old.gather(1, layer.indices.long())[moved].any(), "none comes back at once"
        for name, tensor in state.items():
            now = optimizer.state[layer.weight][name]
            if tensor.shape == weight.shape:
                start = tensor[~moved].mean() if name == "exp_avg_sq" else torch.tensor(0.0)
                torch.testing.assert_close(now[moved], start.expand(int(moved.sum())))
                assert torch.equal(now[~moved], tensor[~moved])
    assert seen == 2, "at steps 3 and 6 of 10: it ends at 0.75 of them"


@pytest.mark.parametrize(
    "optimizer_class",
    [
        torch.optim.Adam,
        lambda p, lr: torch.optim.AdamW(p, lr, amsgrad=True, weight_decay=0),
        lambda p, lr: torch.optim.RMSprop(p, lr, alpha=0.999),
    ],
    ids=["Adam", "AdamW with amsgrad", "RMSprop"],
)
def test_late_in_a_training_a_new_connection_takes_steps_of_the_size_of_the_rate(optimizer_class):
    net = SpaghettiNet([40, 24, 3], fan_in=8, seed=0)
    weight, optimizer = net[0].weight, optimizer_class(net.parameters(), lr=0.01)
    rewirer = Rewirer(net, optimizer, "set", steps=10, every=1)

    def step():
        weight.grad = torch.ones_like(weight)
        optimizer.step()

    step()
    for name, tensor in optimizer.state[weight].items():
        tensor.fill_(10_000 if name == "step" else 1)  # as after many such gradients
    before = net[0].indices.clone()
    assert rewirer.step()
    grown = net[0].indices != before
    for _ in range(5):
        old = weight.detach().clone()
        step()
        assert (weight - old)[grown].abs().max() < 0.011, "with averages of squares from 0 more than three times as much"


def test_an_output_of_weak_connections_keeps_its_strongest():
    net = SpaghettiNet([40, 24, 3], fan_in=4, seed=0)
    layer = net[0]
    layer.weight.data[5] = torch.tensor([1e-6, -4e-6, 2e-6, 3e-6])
    for fraction, moves in ((0.3, round(0.3 * 96)), (1.0, 96 - 24)):
        rewirer = Rewirer(net, torch.optim.SGD(net.parameters(), lr=0.1), steps=10, every=1, fraction=fraction)
        indices, weight = layer.indices.clone(), layer.weight.detach().clone()
        strongest = weight.abs().argmax(1, keepdim=True)
        assert rewirer.step()
        moved = layer.indices != indices
        assert moved[5].sum() == 3 and moved.sum() == moves
        assert not moved.gather(1, strongest).any() and torch.equal(layer.weight[~moved], weight[~moved])


def test_rigl_grows_where_the_gradient_is_largest():
    net = SpaghettiNet([40, 24, 3], fan_in=8, seed=0)
    dense = net[0].to_dense()
    x, y = torch.randn(64, 40, generator=generator()), torch.randint(3, (64,), generator=generator())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rewirer = Rewirer(net, optimizer, "rigl", steps=10, every=1, fraction=0.5)
    before = net[0].indices.clone()
    for half in (slice(0, 32), slice(32, 64)):  # gradients of two micro-batches add up
        (F.cross_entropy(net(x[half]), y[half]) / 2).backward()
        (F.cross_entropy(net[1:](dense(x[half])), y[half]) / 2).backward()
    assert rewirer.step()
    absent = dense.weight.grad.abs().scatter(1, before.long(), -1.0)
    moved = net[0].indices != before
    assert moved.sum() == 24 * 8 / 2
    for gradient, now, new in zip(absent, net[0].indices.long(), moved, strict=True):
        assert set(now[new].tolist()) == set(gradient.topk(int(new.sum())).indices.tolist())
    rewirer.close()
    assert not net[0]._forward_hooks


@pytest.mark.parametrize(("fan_in", "moves"), [(1, 23), (2, 24), (39, 24)])
def test_few_connections_or_few_absent_ones_can_be_rewired(fan_in, moves):
    """With two connections an output loses the weaker one; with one absent each output grows no more than that."""
    net = SpaghettiNet([40, 24, 3], fan_in=fan_in, seed=0)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(8, 40)).sum().backward()
    optimizer.step()
    rewirer = Rewirer(net, optimizer, "set", steps=10, every=1, fraction=1.0)
    before = net[0].indices.clone()
    assert rewirer.step()
    wirings.check(net[0].indices, 40)
    moved = (net[0].indices != before).sum(1)
    assert moved.max() == 1 and moved.sum() == moves
    assert all(tensor.isfinite().all() for tensor in optimizer.state[net[0].weight].values())


def test_training_with_a_rewirer_learns():
    net = SpaghettiNet([40, 64, 3], fan_in=8, seed=0)
    x = torch.randn(256, 40, generator=generator())
    y = x[:, :3].argmax(1)
    optimizer = torch.optim.Adam(spaghettinet.param_groups(net, lr=3e-3))
    rewirer = Rewirer(net, optimizer, "rigl", steps=120, every=10)
    for _ in range(120):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        rewirer.step()
    assert loss.item() < 0.2
    assert torch.bincount(net[0].indices.flatten(), minlength=40)[:3].min() > 24, "the three inputs that matter are found"


def test_a_rewirer_refuses_what_it_cannot_do():
    net, stranger = SpaghettiNet([40, 24, 3], seed=0), SpaghettiNet([40, 24, 3], seed=0)
    optimizer = torch.optim.Adam(net.parameters())
    for message, make in {
        "method must be one of set, rigl; got 'prune'": lambda: Rewirer(net, optimizer, "prune", steps=9),
        "fraction and until must be": lambda: Rewirer(net, optimizer, steps=9, fraction=0.0),
        "does not hold the weight of a sparse layer": lambda: Rewirer(stranger, optimizer, steps=9),
        "no sparse layer with fewer connections": lambda: Rewirer(torch.nn.Linear(3, 2), optimizer, steps=9),
        "per output than inputs": lambda: Rewirer(SpaghettiNet([40, 24, 3], fan_in=40), optimizer, steps=9),
        "run forward and backward in training mode": lambda: Rewirer(net, optimizer, "rigl", steps=9, every=1).step(),
    }.items():
        with pytest.raises((ValueError, RuntimeError), match=message):
            make()


@pytest.mark.parametrize("engine", ["c", "torch"])
def test_a_wiring_that_changes_between_forward_and_backward_is_noticed(engine):
    layer = SpaghettiLayer(32, 16, fan_in=4, seed=0, engine=engine)
    y = layer(torch.randn(3, 32))
    layer.rewire(layer.indices.flip(0))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
