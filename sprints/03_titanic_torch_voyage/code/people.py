"""Facts of passengers -> who they are: what each row says by itself, and who travels with whom. Nothing is learned here.

P = people(X)                   title, family, ticket and the like of each row
companions(P, P)                (n, n) who shares a ticket or a family with whom
"""

import numpy as np
import pandas as pd

from .preprocess_data import DECKS, FACTS, PORTS, LeakError, passenger_key, refuse_outcomes

TITLES = {
    "Mr": ("Mr", "Sir", "Don", "Jonkheer"),
    "Mrs": ("Mrs", "Mme", "Dona", "Lady", "the Countess"),
    "Miss": ("Miss", "Mlle", "Ms"),
    "Master": ("Master",),
    "Officer": ("Dr", "Rev", "Col", "Major", "Capt"),
}
SPOKEN = {form: title for title, forms in TITLES.items() for form in forms}
CATEGORIES = {"title": list(TITLES), "deck": [*DECKS[:-1], "unknown"], "port": list(PORTS.values())}
CHILD = 14  # years: boys below got into the boats as children


def people(X: pd.DataFrame) -> pd.DataFrame:
    """What each row says by itself, nothing fitted, no labels: facts X (n, preprocess_data.FACTS) -> (n, columns below).

    Unknown: sex is read off the title, else male; class 3; no relatives: the most common values. A sex, deck or port that
    the schema does not have is unknown.
    Raises LeakError where X has labels or a column recorded after the sinking.
    """
    if not isinstance(X, pd.DataFrame):
        raise TypeError("the facts come as a DataFrame with the columns of preprocess_data.FACTS")
    refuse_outcomes(X.columns)
    if "survived" in X:
        raise LeakError("the labels (column survived) are no feature: pass them as y")
    key, X = passenger_key(X), X.reindex(columns=list(FACTS))
    name, ticket = (X[column].astype(object).where(X[column].notna(), "").astype(str) for column in ("name", "ticket"))
    port = X["port"].astype(object).where(X["port"].isin(CATEGORIES["port"]), None)
    sex = X["sex"].where(X["sex"].isin(["female", "male"]))
    title = name.str.extract(r",\s*([^.]+)\.")[0].str.strip().map(SPOKEN)
    male = (sex == "male") | (sex.isna() & ~title.isin(["Mrs", "Miss"]))
    child = X["age"] < CHILD
    title = title.fillna(pd.Series(np.where(male, np.where(child, "Master", "Mr"), "Miss"), index=X.index))
    title = title.mask((title == "Officer") & ~male, "Mrs")
    rank = X["class"].fillna(3.0)
    siblings, parents = X["siblings_spouses"].fillna(0.0), X["parents_children"].fillna(0.0)
    surname, ticket = name.str.split(",").str[0].str.strip().str.lower(), ticket.str.replace(r"[\s.]", "", regex=True).str.upper()
    relatives = surname + "|" + rank.astype(str) + "|" + port.fillna("?").astype(str)
    return pd.DataFrame(
        {
            "male": male,
            "class": rank,
            "title": title,
            "age": X["age"].astype(float),
            "woman_child": ~male | (title == "Master") | child,
            "siblings_spouses": siblings,
            "parents_children": parents,
            "family": siblings + parents + 1,
            "fare": X["fare"].astype(float),
            "deck": X["deck"].where(X["deck"].isin(CATEGORIES["deck"]), "unknown"),
            "port": port,
            "relatives": relatives.where((siblings + parents > 0) & (surname != "")),
            "ticket": ticket.where(ticket != ""),
            "ticket_number": ticket.str.extract(r"(\d+)$")[0].astype(float),
            "key": key,
        }
    )


def same(P: pd.DataFrame, known: pd.DataFrame, column: str) -> np.ndarray:
    """(n, m) booleans for two tables of `people`: the values are equal and not missing."""
    codes = pd.factorize(pd.concat([P[column], known[column]], ignore_index=True))[0]
    a, b = codes[: len(P), None], codes[None, len(P) :]
    return (a == b) & (a >= 0)


def companions(P: pd.DataFrame, known: pd.DataFrame) -> np.ndarray:
    """(n, m) booleans, two tables of `people`: one ticket or one family (surname, class and port), and not the same person."""
    together = same(P, known, "ticket") | same(P, known, "relatives")
    return together & ~same(P, known, "key")
