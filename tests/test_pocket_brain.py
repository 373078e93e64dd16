"""Sprint 00: the training twin against transformers, exact resume, and the optimizer."""

from importlib import import_module

import pytest
import torch

CODE = "sprints.00_pocket_brain.code"
model = import_module(f"{CODE}.model")
optimizer = import_module(f"{CODE}.optimizer")
pretrain = import_module(f"{CODE}.pretrain")

SMALL = model.Shape(vocabulary=320, width=32, layers=2, heads=2, inner=48, context=96)


def twin(shape, seed=0):
    """Our model in float64 with weights far from their start, and the library's with the same weights."""
    ours = model.Llama(shape, torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.2)
    theirs = model.to_transformers(model.configuration(shape, end=0, pad=1), dict(ours.named_parameters()))
    return ours, theirs


@pytest.mark.parametrize(("length", "block"), [(1, 16), (40, 16), (96, 256)])
def test_loss_and_gradients_equal_those_of_transformers(length, block, monkeypatch):
    monkeypatch.setattr(model, "QUERY_BLOCK", block)
    monkeypatch.setattr(model, "LOSS_CHUNK", 37)
    ours, theirs = twin(SMALL)
    tokens = torch.randint(0, SMALL.vocabulary, (3, length + 1), generator=torch.Generator().manual_seed(2))
    loss = ours.loss(tokens)
    loss.backward()
    logits = theirs(tokens[:, :-1]).logits
    reference = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    reference.backward()
    assert float(loss.detach()) == pytest.approx(float(reference.detach()), rel=1e-5)  # our logits are float32
    expected = dict(theirs.named_parameters())
    layer = "model.layers.1."
    pairs = {
        "embedding": expected["model.embed_tokens.weight"].grad,
        "norm": expected["model.norm.weight"].grad,
        "qkv.1": torch.cat([expected[f"{layer}self_attn.{name}_proj.weight"].grad for name in "qkv"]),
        "output.1": expected[f"{layer}self_attn.o_proj.weight"].grad,
        "gate_up.1": torch.cat([expected[f"{layer}mlp.{name}_proj.weight"].grad for name in ("gate", "up")]),
        "down.1": expected[f"{layer}mlp.down_proj.weight"].grad,
        "norm_attention.1": expected[f"{layer}input_layernorm.weight"].grad,
        "norm_mlp.1": expected[f"{layer}post_attention_layernorm.weight"].grad,
    }
    for name, reference in pairs.items():
        gradient = ours.get_parameter(name).grad
        assert torch.norm(gradient - reference) <= 2e-5 * torch.norm(reference) + 1e-9, name


def test_importance_weighs_the_loss_of_each_token():
    ours, _ = twin(SMALL)
    tokens = torch.randint(0, SMALL.vocabulary, (1, 9), generator=torch.Generator().manual_seed(2))
    parts, gradients = [], []
    for place in range(1, 9):
        importance = torch.zeros(1, 9)
        importance[0, place] = 1.0
        loss = ours.loss(tokens, importance)
        gradients.append(torch.autograd.grad(loss, ours.embedding)[0])
        parts.append(float(loss.detach()))
    factors = torch.tensor([[0.0, 1, 2, 0, 1, 4, 1, 3, 1]])
    weighed = ours.loss(tokens, factors)
    assert float(weighed.detach()) == pytest.approx(float(factors[0, 1:] @ torch.tensor(parts)), rel=1e-5)
    expected = torch.einsum("i,ivd->vd", factors[0, 1:].double(), torch.stack(gradients))
    assert torch.allclose(torch.autograd.grad(weighed, ours.embedding)[0], expected, rtol=1e-4, atol=1e-6)


def test_shapes_have_the_parameters_they_claim():
    for name, shape in model.SHAPES.items():
        assert shape.parameters == sum(weight.numel() for weight in model.Llama(shape).parameters())
        assert round(shape.parameters / 1e6) == int(name[:-1])
    assert 2 * model.SHAPES["6M"].parameters < 12.5e6


def test_orthogonalise_gives_singular_values_near_one():
    for rows, columns in ((24, 24), (24, 60), (60, 24)):
        values = torch.linalg.svdvals(
            optimizer.orthogonalise(torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(3))).float()
        )
        assert values.max() < 1.3
        assert values.median() > 0.6
    x = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(4))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(optimizer.orthogonalise(x).float().flatten(), (u @ v).flatten(), dim=0) > 0.95


class OneProcess:
    """What the optimizer needs of accelerate's Accelerator when nobody else trains."""

    process_index, num_processes = 0, 1

    def reduce(self, tensor, how):
        assert how == "sum"
        return tensor


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_steps_are_those_of_the_optimizers_of_torch(kind):
    """Three whole steps against torch.optim.Muon, applied to q, k, v, gate and up one by one, and torch.optim.AdamW."""
    ours = model.Llama(SMALL, torch.Generator().manual_seed(5)).bfloat16()
    stepper = optimizer.Optimizer(ours, OneProcess(), kind, 1e-3, 0.02, 0.1)
    start = {name: master.clone() for name, master in stepper.masters.items()}
    theirs = {name: master.clone().requires_grad_() for name, master in start.items()}
    parts = {name: {"qkv": 3, "gate_up": 2}.get(name.split(".")[0], 1) for name in theirs}
    muon = {name for name, weight in theirs.items() if kind == "muon" and weight.ndim == 2 and name != "embedding"}
    pieces = {name: [piece.detach().clone().requires_grad_() for piece in theirs[name].chunk(parts[name])] for name in muon}
    rest = [weight for name, weight in theirs.items() if name not in muon]
    decay = 0.1 if kind == "adamw" else 0.0
    groups = [{"params": [w for w in rest if w.ndim == 2]}, {"params": [w for w in rest if w.ndim == 1], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, 1e-3, betas=(0.9, 0.98) if kind == "muon" else (0.9, 0.95), weight_decay=decay)
    momentum = [0.85 + 0.10 * step / 150 for step in range(3)]
    reference = torch.optim.Muon([p for ps in pieces.values() for p in ps], 0.02, weight_decay=0.1) if muon else None
    generator = torch.Generator().manual_seed(6)
    for step in range(3):
        for name, weight in ours.named_parameters():
            weight.grad = torch.randn(weight.shape, generator=generator).bfloat16()
            gradient = weight.grad.float() / 64
            theirs[name].grad = gradient
            for piece, part in zip(pieces.get(name, []), gradient.chunk(parts[name]), strict=False):
                piece.grad = part
        if reference:
            reference.param_groups[0]["momentum"] = momentum[step]
            reference.step()
        adam.step()
        stepper.step(1.0, 64, step, torch.zeros(1))
    for name, master in stepper.masters.items():
        expected = torch.cat(list(pieces[name])) if name in muon else theirs[name]
        moved, wanted = (master - start[name]).flatten(), (expected.detach() - start[name]).flatten()
        assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > (0.999 if name in muon else 0.999999), name
        assert moved.norm() == pytest.approx(float(wanted.norm()), rel=0.01), name
        assert torch.equal(ours.get_parameter(name), master.bfloat16()), name
