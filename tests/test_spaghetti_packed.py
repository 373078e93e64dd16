"""Packed layers own their tensors, and refuse those that the kernel would read wrongly or out of bounds."""

from importlib import import_module

import pytest
import torch

spaghettinet = import_module("sprints.02_spaghettinet.code.spaghettinet")
SpaghettiLayer = spaghettinet.SpaghettiLayer
KINDS = {"bundle": {}, "local_bundle": {"grid": (8, 8)}}
X = torch.linspace(-1, 1, 3 * 64).reshape(3, 64)


def packed(name="local_bundle", inputs=64, outputs=32, fan_in=6, seed=0, dtype=torch.float32):
    """A packed layer and its source."""
    layer = SpaghettiLayer(inputs, outputs, fan_in=fan_in, wiring=name, seed=seed, **KINDS[name] if inputs == 64 else {})
    return layer.pack(dtype), layer


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("assign", [False, True])
def test_loading_into_a_packed_layer_leaves_the_source_and_its_other_copies_alone(name, assign):
    (made, layer), (other, _) = packed(name), packed(name, seed=1)
    twin, expected = layer.pack(), layer(X).detach()
    made(X)
    made.load_state_dict(other.state_dict(), assign=assign)
    assert torch.equal(made(X), other(X)) and not torch.equal(made(X), twin(X))
    for tensor in made.buffers():
        tensor.zero_()
    assert torch.equal(layer(X), expected)
    torch.testing.assert_close(twin(X), expected)
    torch.testing.assert_close(layer.pack()(X), expected)


def changed(name, change):
    """The state of a packed layer on a grid with one tensor changed."""
    state = packed(seed=1)[0].state_dict()
    return state | {name: change(state[name].clone())}


def with_value(value):
    def change(tensor):
        tensor[-1] = value
        return tensor

    return change


FOREIGN = {
    "only one of the two has its blocks on a grid": lambda: packed("bundle")[0].state_dict(),
    r"weight has become torch\.float32 on cpu, \(2, 4, 2, 16\)": lambda: packed(fan_in=8)[0].state_dict(),
    r"weight has become torch\.float32 on cpu, \(1, 3, 2, 16\)": lambda: packed(outputs=16)[0].state_dict(),
    r"weight has become torch\.int32": lambda: packed(dtype=torch.bfloat16)[0].state_dict(),
    r"blocks has become torch\.int32 on cpu, \(2, 5\)": lambda: changed("blocks", lambda tensor: tensor[:, :5].contiguous()),
    r"blocks has become torch\.int64": lambda: changed("blocks", torch.Tensor.long),
    r"blocks has become .* with strides \(1, 2\)": lambda: changed("blocks", lambda tensor: tensor.t().contiguous().t()),
    r"lanes has become .* \(1, 1, 16\)": lambda: changed("lanes", lambda tensor: tensor[:1]),
    r"bias has become .* \(31,\)": lambda: changed("bias", lambda tensor: tensor[:31]),
    "blocks lie outside the 64 inputs": lambda: changed("blocks", with_value(4)),
    "blocks lie outside the 64 .*": lambda: changed("blocks", with_value(-1)),
    "quads lie outside the 64 inputs": lambda: changed("quads", with_value(64)),
    "quads lie outside the 64 .*": lambda: changed("quads", with_value(61)),
}


@pytest.mark.parametrize("message", FOREIGN)
@pytest.mark.parametrize("assign", [False, True])
def test_a_foreign_state_is_one_clear_error_and_changes_nothing(message, assign):
    made, state = packed()[0], FOREIGN[message]()
    y = made(X)
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=f"0.*: the state dict belongs to another packed layer: .*{message}"):
            torch.nn.Sequential(made).load_state_dict({f"0.{name}": tensor for name, tensor in state.items()}, strict, assign)
    assert torch.equal(made(X), y)


def test_a_narrower_layer_refuses_blocks_of_a_wider_one():
    wide, narrow = packed("bundle", inputs=256, seed=3)[0], packed("bundle")[0]
    assert wide.blocks.max() >= 4, "outside the narrow one"
    with pytest.raises(RuntimeError, match="blocks lie outside the 64 inputs"):
        narrow.load_state_dict(wide.state_dict())


def test_tensors_set_before_the_first_call_are_checked():
    made = packed()[0]
    made.blocks = made.blocks + 4
    with pytest.raises(ValueError, match="stays as it is: its blocks lie outside the 64 inputs"):
        made(X)


def test_memory_that_moves_is_looked_up_again():
    made = packed()[0]
    y, plan = made(X), made._plan
    made.share_memory()
    assert torch.equal(made(X), y) and made._plan is not plan
