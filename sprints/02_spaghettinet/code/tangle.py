"""How tangled a wiring is: measures of the bipartite graph between inputs and outputs. They describe, they do not judge."""

import numpy as np
from scipy.sparse import bmat, csr_matrix
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

SOURCES = 64  # nodes from which paths are measured
MEANINGS = {
    "entropy": "entropy of the connections over the inputs / its largest value",
    "degree_spread": "standard deviation / mean of the outputs that read an input",
    "dead_inputs": "share of inputs that nobody reads",
    "path_length": "mean number of steps between two nodes that are connected",
    "clustering": "mean overlap (Jaccard) of the inputs of two outputs that share one",
    "singular_value": "second singular value of the normalised adjacency matrix; the first is 1, so a gap is what is missing to 1",
    "best_singular_value": "the value that no family of graphs with these degrees stays below as it grows (Ramanujan)",
}


def measure(indices: Tensor, in_features: int) -> dict[str, float]:
    """The measures of MEANINGS for a wiring (out, k).

    Clustering: Latapy, Magnien & Del Vecchio 2008, doi:10.1016/j.socnet.2007.04.006 ("dot"), over all pairs of outputs that share
    an input. Large random wirings come near to the Ramanujan bound: Brito, Dumitriu & Harris, arXiv:1804.07808.
    """
    out, k = indices.shape
    columns = indices.cpu().numpy().ravel()
    reads = csr_matrix((np.ones(columns.size), columns, np.arange(0, columns.size + 1, k)), shape=(out, in_features))
    fan_out = np.bincount(columns, minlength=in_features)
    share = fan_out[fan_out > 0] / columns.size
    shared = (reads @ reads.T).toarray()[np.triu_indices(out, 1)]
    met = shared > 0
    scaled = reads.toarray() / np.sqrt(k * np.maximum(fan_out, 1))
    squares = np.linalg.eigvalsh(scaled @ scaled.T if out < in_features else scaled.T @ scaled)
    mean_out = columns.size / in_features
    return {
        "entropy": float(-(share * np.log(share)).sum() / np.log(in_features)) if in_features > 1 else 1.0,
        "degree_spread": float(fan_out.std() / mean_out),
        "dead_inputs": float((fan_out == 0).mean()),
        "path_length": path_length(reads, out + in_features),
        "clustering": float((shared[met] / (2 * k - shared[met])).mean()) if met.any() else 0.0,
        "singular_value": float(np.sqrt(max(squares[-2], 0.0))) if len(squares) > 1 else 0.0,
        "best_singular_value": float(min(1.0, (np.sqrt(k - 1) + np.sqrt(max(mean_out - 1, 0))) / np.sqrt(k * mean_out))),
    }


def path_length(reads: csr_matrix, nodes: int) -> float:
    """Mean steps from some nodes, drawn with a seed of their own, to all that they are connected with."""
    graph = csr_matrix(bmat([[None, reads], [reads.T, None]]))
    sources = np.random.default_rng(0).choice(nodes, min(SOURCES, nodes), replace=False)
    steps = shortest_path(graph, unweighted=True, directed=False, indices=sources)
    return float(steps[np.isfinite(steps) & (steps > 0)].mean())
