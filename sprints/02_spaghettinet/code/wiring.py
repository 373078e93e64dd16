"""Who reads whom: every wiring is a table `indices` int32 (out_features, fan_in) of distinct inputs per output.

A wiring draws from the generator it is given and never from torch's global one.
"""

import torch
from torch import Tensor

LANES = 16  # inputs of a block and outputs of a tile: the floats of one AVX-512 register
PATCH = 4  # side of the square of pixels that makes a block of a local bundle
WIRINGS = ("random", "bundle", "local_bundle", "small_world", "variance")
_ELEMENTS = 1 << 24  # scores held at a time: 64 MiB


def draw(
    wiring: str,
    in_features: int,
    out_features: int,
    fan_in: int,
    generator: torch.Generator,
    *,
    grid: tuple[int, int] | None = None,
    rewire_p: float = 0.1,
    input_std: Tensor | None = None,
) -> Tensor:
    """The table (out_features, fan_in) of the wiring of that name; ValueError for a name or an option that does not fit."""
    size = (in_features, out_features, fan_in, generator)
    if wiring == "random":
        return random(*size)
    if wiring == "bundle":
        return bundle(*size)
    if wiring == "small_world":
        return small_world(*size, grid=grid, rewire_p=rewire_p)
    if wiring == "local_bundle":
        if grid is None:
            raise ValueError("wiring 'local_bundle' needs grid=(height, width) of the inputs")
        return local_bundle(*size, grid=grid, rewire_p=rewire_p)
    if wiring == "variance":
        if input_std is None:
            raise ValueError("wiring 'variance' needs input_std, the standard deviation of each input in the training set")
        return variance(*size, input_std=input_std)
    raise ValueError(f"wiring must be one of {', '.join(WIRINGS)} or a table of indices; got {wiring!r}")


def random(in_features: int, out_features: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """Every output reads `fan_in` distinct inputs, all sets equally likely."""
    return _largest(out_features, in_features, fan_in, lambda rows: torch.rand(len(rows), in_features, generator=generator))


def variance(in_features: int, out_features: int, fan_in: int, generator: torch.Generator, *, input_std: Tensor) -> Tensor:
    """Inputs drawn without replacement with odds in proportion to their standard deviation (Gumbel top-k); constant ones last."""
    if input_std.shape != (in_features,) or not bool(((input_std >= 0) & input_std.isfinite()).all()):
        raise ValueError(f"input_std must hold {in_features} finite values of at least 0; got shape {tuple(input_std.shape)}")
    odds = input_std.detach().cpu().float().clamp_min(1e-9).log()

    def scores(rows: Tensor) -> Tensor:
        return odds - torch.rand(len(rows), in_features, generator=generator).log().neg().log()

    return _largest(out_features, in_features, fan_in, scores)


def small_world(
    in_features: int,
    out_features: int,
    fan_in: int,
    generator: torch.Generator,
    *,
    grid: tuple[int, int] | None = None,
    rewire_p: float = 0.1,
) -> Tensor:
    """Each output reads the nearest inputs; each connection is then moved to a random input with probability rewire_p.

    Without a grid inputs and outputs lie on a ring; with grid=(height, width) both are spread evenly over that rectangle.
    Source: Watts and Strogatz 1998, doi:10.1038/30918.
    """

    def scores(rows: Tensor) -> Tensor:
        far = _distance(rows, in_features, out_features, grid) + 1e-3 * torch.rand(len(rows), in_features, generator=generator)
        near = far.topk(fan_in, largest=False).indices
        moved = torch.rand(len(rows), fan_in, generator=generator) < rewire_p
        score = torch.rand(len(rows), in_features, generator=generator)
        return score.scatter_(1, near, 2 - 3 * moved.float())  # kept ones first, those that move away last

    return _largest(out_features, in_features, fan_in, scores)


def bundle(in_features: int, out_features: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """Tiles of 16 outputs share a list of blocks of 16 inputs; in each entry of it the outputs read the inputs in a random order.

    So every entry is a permutation of 16 lanes, which one register instruction carries out in both directions (kernels_bundle.h).
    Raises ValueError where a size is no multiple of 16.
    """
    tiles, blocks = _bundle_shape(in_features, out_features)
    rounds = torch.arange(LANES).repeat(blocks)  # the r-th use of a block comes only after every block's use before it
    slots = _largest(tiles, blocks * LANES, fan_in, lambda rows: torch.rand(len(rows), len(rounds), generator=generator) - rounds)
    return _lanes(slots, blocks, generator)


def local_bundle(
    in_features: int,
    out_features: int,
    fan_in: int,
    generator: torch.Generator,
    *,
    grid: tuple[int, int],
    rewire_p: float = 0.1,
) -> Tensor:
    """A bundle of patches of 4 x 4 pixels: a share 1 - rewire_p of a tile's list lies around its place on the grid."""
    tiles, blocks = _bundle_shape(in_features, out_features)
    order = patch_order(grid, in_features)
    local = max(1, round((1 - rewire_p) * fan_in))
    near = min(blocks, max(4, -(-local // 8)))  # patches that share the local connections, each used about 8 times
    rounds = torch.arange(LANES)

    def scores(rows: Tensor) -> Tensor:
        far = _distance(rows, blocks, tiles, (grid[0] // PATCH, grid[1] // PATCH))
        far = far + 1e-2 * torch.rand(len(rows), blocks, generator=generator)
        rank = far.argsort(1).argsort(1)[:, :, None]
        place = rounds * near + rank  # order in which the near patches are used up, round by round
        chosen = (rank < near) & (place < local)
        anywhere = torch.rand(len(rows), blocks, LANES, generator=generator) - (rank < near).float()
        return torch.where(chosen, 2.0, anywhere).flatten(1)

    slots = _largest(tiles, blocks * LANES, fan_in, scores)
    return order[_lanes(slots, blocks, generator).long()]


def patch_order(grid: tuple[int, int], in_features: int) -> Tensor:
    """int32 (in_features,): the pixels of a grid (height, width), patch of 4 x 4 after patch. ValueError where they do not fit."""
    check_grid(grid, in_features)
    height, width = grid
    if height % PATCH or width % PATCH:
        raise ValueError(f"a local bundle needs a grid whose sides are multiples of {PATCH}; got {height} x {width}")
    pixels = torch.arange(in_features, dtype=torch.int32).reshape(height // PATCH, PATCH, width // PATCH, PATCH)
    return pixels.transpose(1, 2).reshape(-1)


def skip(
    previous: range, earlier: int, out_features: int, fan_in: int, generator: torch.Generator, *, probability: float
) -> Tensor:
    """Each connection of an output goes to the level before (`previous`), or with that probability to any neuron before it.

    `earlier` neurons have the numbers 0 to earlier - 1; fan_in is cut to what there is.
    """
    fan_in = min(fan_in, len(previous) + earlier)
    skips = (torch.rand(out_features, fan_in, generator=generator) < probability).sum(1)
    skips = skips.clamp(max(0, fan_in - len(previous)), min(earlier, fan_in))
    near = torch.rand(out_features, len(previous), generator=generator).argsort(1)[:, :fan_in] + previous.start
    far = torch.rand(out_features, earlier, generator=generator).argsort(1)[:, :fan_in]
    taken = torch.cat([torch.arange(near.shape[1]) < (fan_in - skips)[:, None], torch.arange(far.shape[1]) < skips[:, None]], dim=1)
    return torch.cat([near, far], dim=1)[taken].reshape(out_features, fan_in).sort(1).values.int()


def check(indices: Tensor, in_features: int) -> None:
    """ValueError unless it is a table of integers (out, k) in [0, in_features), distinct within a row."""
    if indices.ndim != 2 or indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"indices must be a table of integers (out, fan_in); got {indices.dtype} {tuple(indices.shape)}")
    if not 1 <= indices.shape[1] <= in_features:
        raise ValueError(f"fan_in must be 1 to in_features = {in_features}; got {indices.shape[1]}")
    if not 1 <= indices.numel() < 2**31:
        raise ValueError(f"a layer has 1 to 2**31 - 1 connections; got {indices.numel()}")
    ordered = indices.sort(1).values
    if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= in_features:
        bad = int(ordered.min()) if ordered[:, 0].min() < 0 else int(ordered.max())
        raise ValueError(f"index {bad} is outside 0 to {in_features - 1}")
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if twice.any():
        raise ValueError(f"output {int(twice.nonzero()[0])} reads the same input twice")


def check_grid(grid: tuple[int, int], in_features: int) -> None:
    """ValueError unless height x width is in_features."""
    if grid[0] * grid[1] != in_features or min(grid) < 1:
        raise ValueError(f"grid {grid[0]} x {grid[1]} does not have in_features = {in_features} places")


def _largest(rows: int, columns: int, count: int, scores) -> Tensor:
    """The columns of the `count` largest scores of each row, ascending; the scores are made a slice of rows at a time."""
    step = max(1, _ELEMENTS // columns)
    slices = [torch.arange(start, min(rows, start + step)) for start in range(0, rows, step)]
    return torch.cat([scores(part).topk(count, dim=1).indices.sort(1).values for part in slices]).int()


def _distance(rows: Tensor, in_features: int, out_features: int, grid: tuple[int, int] | None) -> Tensor:
    """Distances (rows, in_features), in steps between inputs, of some outputs from all inputs: on a ring, or squared on a grid."""
    inputs = torch.arange(in_features)
    if grid is None:
        far = (inputs - ((rows + 0.5) / out_features * in_features - 0.5)[:, None]).abs()
        return torch.minimum(far, in_features - far)
    check_grid(grid, in_features)
    height = round(out_features**0.5)
    width = -(-out_features // height)
    y = ((rows // width + 0.5) / -(-out_features // width) * grid[0] - 0.5)[:, None]
    x = ((rows % width + 0.5) / width * grid[1] - 0.5)[:, None]
    return (inputs // grid[1] - y) ** 2 + (inputs % grid[1] - x) ** 2


def _bundle_shape(in_features: int, out_features: int) -> tuple[int, int]:
    if in_features % LANES or out_features % LANES:
        raise ValueError(f"a bundle needs multiples of {LANES} inputs and outputs; got {in_features} and {out_features}")
    return out_features // LANES, in_features // LANES


def _lanes(slots: Tensor, blocks: int, generator: torch.Generator) -> Tensor:
    """Indices (tiles * 16, fan_in) of slots (tiles, fan_in) = block * 16 + use.

    Output o reads lane values[(places[o] + use) % 16] of the block, with two random permutations per tile and block: a permutation
    of the lanes in every use, and another lane of the block for every use.
    """
    tables = []
    step = max(1, _ELEMENTS // (blocks * LANES))
    for part in slots.long().split(step):
        block, use = part // LANES, part % LANES
        values, places = (torch.rand(len(part), blocks, LANES, generator=generator).argsort(2) for _ in range(2))
        tile = torch.arange(len(part))[:, None]
        turned = (places[tile, block] + use[:, :, None]) % LANES  # (tiles, fan_in, 16 outputs)
        lanes = values[tile, block].gather(2, turned)
        tables.append((block[:, :, None] * LANES + lanes).transpose(1, 2).reshape(-1, slots.shape[1]))
    return torch.cat(tables).int()
