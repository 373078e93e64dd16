"""What decides a prediction besides the passengers, as one sha256: the name of a kept fold, or of a study of the tuning.

recipe(GaussianProcess(), fit_predict)      the settings, the code behind the classes and functions, the packages these use

Code counts definition by definition: a class or function of this sprint, what it names, what that names, and so on. Comments,
docstrings, layout, and whatever a model does not reach may change without anything being computed again.
"""

import ast
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from shared import data
from shared.environment import versions

CODE = Path(__file__).parent
DISTRIBUTIONS = {"sklearn": ("scikit-learn",), "xgboost": ("xgboost", "xgboost-cpu")} | {
    name: (name,) for name in ("numpy", "pandas", "scipy", "torch", "optuna", "catboost", "lightgbm", "tabpfn", "tabicl")
}  # what is imported -> the packages that may bring it; standard modules and shared/ decide no prediction

Place = tuple[str, str]  # a module and a name in it


def recipe(*parts: Any) -> str:
    """sha256 (hex) of estimators, classes and functions: settings, code, versions of packages."""
    places: set[Place] = set()
    settings = [describe(part, places) for part in parts]
    texts, modules = code_behind(places)
    used = sorted({name for module in modules for name in DISTRIBUTIONS.get(module, ())})
    return data.digest("\n".join([*settings, *texts, str(versions(used))]).encode())


def describe(value: Any, places: set[Place]) -> str:
    """Text that is equal for equal settings; adds where classes and functions stand to `places`."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, np.ndarray):
        return data.digest(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {describe(item, places)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(describe(item, places) for item in value)}]"
    if isinstance(value, partial):
        return describe([value.func, value.args, value.keywords], places)
    if hasattr(value, "dist") and hasattr(value, "kwds"):  # a frozen distribution of scipy
        places.add(("scipy", ""))
        return f"{value.dist.name} {describe([value.args, value.kwds], places)}"
    if hasattr(value, "__qualname__"):
        places.add((value.__module__, value.__qualname__.split(".")[0]))
        return f"{value.__module__}.{value.__qualname__}"
    inside = value.get_params(deep=False) if isinstance(value, BaseEstimator) else vars(value)
    return f"{describe(type(value), places)} {describe(inside, places)}"


def code_behind(places: set[Place]) -> tuple[list[str], set[str]]:
    """The definitions of this sprint that are reached from `places`, sorted, and the top-level packages met on the way."""
    here = f"{__package__}."
    todo, done, texts, packages = list(places), set(), set(), set()
    while todo:
        if (place := todo.pop()) in done:
            continue
        done.add(place)
        module, name = place[0].removeprefix(here), place[1]
        if not (CODE / f"{module}.py").is_file():
            packages.add(module.split(".")[0])
            continue
        bound, borrowed = _names(module)
        todo += [borrowed[name]] if name in borrowed else []
        for statement in bound.get(name, ()):
            texts.add(f"{module}.{name} {ast.dump(statement)}")
            for node in ast.walk(statement):
                if isinstance(node, ast.Name):
                    todo.append((module, node.id))
                elif isinstance(node, ast.ImportFrom | ast.Import):
                    todo += _imported(node).values()
                elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
                    packages |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return sorted(texts), packages


@cache
def _names(module: str) -> tuple[dict[str, list[ast.stmt]], dict[str, Place]]:
    """The statements that bind each top-level name of a module, without docstrings; and the names that it imports."""
    tree = ast.parse((CODE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    bound: dict[str, list[ast.stmt]] = {}
    borrowed: dict[str, Place] = {}
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom | ast.Import):
            borrowed |= _imported(statement)
        elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
            bound.setdefault(statement.name, []).append(statement)
        else:
            stored = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
            for name in dict.fromkeys(stored):
                bound.setdefault(name, []).append(statement)
    return bound, borrowed


def _imported(statement: ast.ImportFrom | ast.Import) -> dict[str, Place]:
    """Name -> where it comes from; `from . import x` reaches nothing: models import names, not modules."""
    module = getattr(statement, "module", None)
    return {alias.asname or alias.name.split(".")[0]: (module or alias.name, alias.name) for alias in statement.names}
