"""The passengers: what the tables hold, what is refused and how, and that a submission is made without the answers."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared.data import DataError

SPRINT = "sprints.03_titanic_torch_voyage.code"
preprocess = import_module(f"{SPRINT}.preprocess_data")
titanic3 = import_module(f"{SPRINT}.titanic3")
eda = import_module(f"{SPRINT}.eda")

ROOT = Path(__file__).resolve().parents[1]
CODE = ROOT / "sprints" / "03_titanic_torch_voyage" / "code"
GOOD = """survived,class,name,sex,age,siblings_spouses,parents_children,fare,deck,port
1,1,"Alder, Mrs. Ann",female,30,0,1,50.5,B,Cherbourg
0,3,"Birch, Mr. Bob",male,,0,0,7.9,,Southampton
1,3,"Birch, Mr. Bob",male,40,0,0,8,,
"""
REFUSED = {
    "no passengers": ("", ""),
    "has the column class twice": ("survived,class", "class,class"),
    "line 3: 9 fields, the header has 10": ("male,,0", "male,0"),
    "no column port; its columns are survived, class": (",port", ",harbour"),
    "line 2, column age: 'thirty' is not a number": ("female,30", "female,thirty"),
    "line 2, column age: 'nan' is not between 0 and 120": ("female,30", "female,nan"),
    "line 2, column age: '-3' is not between": ("female,30", "female,-3"),
    "line 3, column class: '4' is not between 1 and 3": ('0,3,"Birch', '0,4,"Birch'),
    "line 3, column class: '2.5' is not a whole number": ('0,3,"Birch', '0,2.5,"Birch'),
    "line 3, column survived: '2' is not between": ('0,3,"Birch', '2,3,"Birch'),
    "line 2, column sex: 'lady' is not one of female, male": ("female,30", "lady,30"),
    "line 2, column sex: must not be blank": ("female,30", ",30"),
    "line 2, column deck: 'Z' is not one of A, B": (",B,", ",Z,"),
    "line 2, column port: 'Paris' is not one of Cherbourg, Queenstown, Southampton": ("Cherbourg", "Paris"),
    r"line 4, column name: Birch, Mr. Bob \(age 40\) stands in line 3 already": ("male,,0", "male,40,0"),
    "column boat was recorded after the sinking": ("deck,port", "deck,boat"),
    "column Body was recorded after the sinking": ("deck,port", "deck,Body"),
    "column alive was recorded after the sinking": ("deck,port", "deck,alive"),
}


def write(folder: Path, text: str, name: str = "some.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> pd.DataFrame:
    return preprocess.check(preprocess.rows_of(path), path.name, absent=("ticket",))


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """Files that look like Kaggle's, made from the embedded table; tickets and the test passengers are invented."""
    raw = preprocess.rows_of(preprocess.EMBEDDED).reset_index(drop=True)
    names = {ours: theirs for theirs, ours in preprocess.FOREIGN.items()} | {"survived": "Survived"}
    raw = raw.assign(ticket="PC " + raw["fare"].str.replace(".", ""), id=[str(1 + row) for row in raw.index])
    raw["port"] = raw["port"].str[:1]
    train, test = raw.rename(columns=names), raw.head(418).drop(columns="survived").rename(columns=names)
    test["passengerid"] = [str(892 + row) for row in test.index]
    (tmp_path / "titanic").mkdir()
    train.to_csv(tmp_path / "titanic" / "train.csv", index=False, lineterminator="\r\n")
    test.to_csv(tmp_path / "titanic" / "kaggle_test.csv", index=False)
    monkeypatch.setenv("SPRINTS_DATA", str(tmp_path))
    return tmp_path / "titanic"


@pytest.fixture
def real():
    """The real files of Kaggle and titanic3."""
    try:
        for names in (preprocess.KAGGLE_TRAIN, preprocess.KAGGLE_TEST, (titanic3.FILE,)):
            preprocess.find(*names)
    except DataError as error:
        pytest.skip(str(error))


def test_embedded_table_is_kaggles_without_tickets():
    X, y = preprocess.embedded()
    assert X.shape == (891, 9) and "ticket" not in X and y.sum() == 342
    assert X.isna().sum()[lambda blanks: blanks > 0].to_dict() == {"age": 177, "deck": 687, "port": 2}
    assert [y[(X["sex"] == sex).to_numpy()].sum() for sex in ("female", "male")] == [233, 109]


def test_embedded_table_is_the_real_one(real):
    X, y = preprocess.embedded()
    full, labels = preprocess.kaggle_train()
    assert (y == labels).all()
    pd.testing.assert_frame_equal(X, full[X.columns].reset_index(drop=True))


def test_embedded_table_is_that_of_the_wheel():
    """Merged from the two files of the MIT-licensed wheel, each of which is in Kaggle's order."""
    if (found := find_spec("explainerdashboard")) is None or found.origin is None:
        pytest.skip("the wheel explainerdashboard is not installed")
    folder = Path(found.origin).parent / "datasets"
    parts = [pd.read_csv(folder / f"titanic_{part}.csv") for part in ("train", "test")]
    X, y = preprocess.embedded()
    place = {name: row for row, name in enumerate(X["name"])}
    rows = [[place[name.strip()] for name in part["Name"]] for part in parts]
    assert all(order == sorted(order) for order in rows) and sorted(rows[0] + rows[1]) == list(range(891))
    wheel = pd.concat(parts).set_axis(rows[0] + rows[1]).sort_index()

    def joined(prefix: str, unknown: str) -> pd.Series:
        hot = wheel.filter(regex=f"^{prefix}_").rename(columns=lambda name: name.removeprefix(f"{prefix}_"))
        return hot.idxmax(axis=1).astype(object).where(hot.any(axis=1) & (hot.get(unknown, 0) == 0), None)

    theirs = {
        "class": wheel["PassengerClass"].astype(float),
        "name": wheel["Name"].str.strip(),
        "sex": joined("Sex", "nan"),
        "age": wheel["Age"].where(wheel["Age"] != -999),
        "siblings_spouses": wheel["No_of_siblings_plus_spouses_on_board"].astype(float),
        "parents_children": wheel["No_of_parents_plus_children_on_board"].astype(float),
        "fare": wheel["Fare"],
        "deck": joined("Deck", "Unkown"),
        "port": joined("Embarked", "Unknown"),
    }
    assert theirs["sex"].isna().sum() == 1 and X["name"][theirs["sex"].isna()].str.startswith("Cumings, Mrs.").all()
    theirs["sex"] = theirs["sex"].where(theirs["sex"].notna(), "female")
    for name, values in theirs.items():
        assert [None if pd.isna(value) else value for value in X[name]] == [
            None if pd.isna(value) else value for value in values
        ], name
    assert (wheel["Survival"].to_numpy() == y).all()


def test_titanic3_agrees_with_kaggle_and_is_its_answer_key(real):
    (X, y), (_, train_y) = titanic3.titanic3(), preprocess.kaggle_train()
    assert X.shape == (1309, 10) and y.sum() == 500
    assert not {"boat", "body"} & set(X)
    train, test = titanic3.hold_out()
    assert np.mean((test.X["sex"] == "female") == test.y) == pytest.approx(320 / 418)  # the score of Kaggle's own example file
    assert train.y.sum() + test.y.sum() == y.sum() and (train.y == train_y).all()
    assert not set(train.X.index) & set(test.X.index)


def test_a_boat_gives_the_answer_away(real):
    has, y = titanic3.boats()
    assert has.shape == (1309,) and np.mean(has == y) > 0.97 and "boat" not in titanic3.titanic3().X


def test_kaggles_files_are_read_with_their_line_ends_names_and_ids(kaggle):
    (X, y), (plain, labels) = preprocess.kaggle_train(), preprocess.embedded()
    assert (y == labels).all() and list(X.index) == list(range(1, 892))
    pd.testing.assert_frame_equal(X[plain.columns].reset_index(drop=True), plain)
    assert X["ticket"][1] == "PC 725"
    assert list(preprocess.kaggle_test().index) == list(range(892, 1310))


def test_wrong_or_absent_files_are_refused(kaggle, tmp_path, monkeypatch):
    text = (kaggle / "train.csv").read_text(encoding="utf-8")
    (kaggle / "kaggle_test.csv").write_text(text, encoding="utf-8")
    with pytest.raises(preprocess.LeakError, match="holds labels"):
        preprocess.kaggle_test()
    (kaggle / "train.csv").write_text("".join(text.splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match="891 passengers and 342 survivors expected, found 890 and"):
        preprocess.kaggle_train()
    monkeypatch.setenv("SPRINTS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"no titanic3.csv: download it and put it at .*titanic3.csv"):
        titanic3.titanic3()


def test_facts_are_all_columns_but_the_label():
    assert ("survived", *preprocess.FACTS) == tuple(preprocess.SCHEMA)


def test_a_good_table_is_read(tmp_path):
    frame = read(write(tmp_path, "\ufeff" + GOOD))
    assert list(frame) == [name for name in preprocess.SCHEMA if name != "ticket"]
    assert frame["age"].tolist()[::2] == [30, 40] and np.isnan(frame["age"][1])
    assert frame["deck"].tolist() == ["B", None, None]


@pytest.mark.parametrize("message", REFUSED)
def test_a_bad_table_is_refused_with_line_and_column(message, tmp_path):
    old, new = REFUSED[message]
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, GOOD.replace(old, new) if old else ""))


def test_several_problems_are_listed_and_the_rest_counted(tmp_path):
    with pytest.raises(DataError, match=r"line 2, .*; line 2, .*; line 3, .*; and 2 more$"):
        read(write(tmp_path, GOOD.replace("male", "robot")[:-1].replace("30,", "old,").replace("Southampton", "Rome")))


def test_what_is_no_csv_is_refused(tmp_path):
    (tmp_path / "photo.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match="not a csv file"):
        read(tmp_path / "photo.csv")
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "nowhere.csv")


def test_new_passengers_may_miss_anything_but_not_be_misspelt(tmp_path):
    X = preprocess.new_passengers(write(tmp_path, 'name,sex,age\n"Doe, Miss. Jane",,\n,male,5\n'))
    assert list(X) == list(preprocess.FACTS) and X["age"].tolist()[1] == 5 and X["ticket"].isna().all()
    with pytest.raises(DataError, match="unknown columns gender; known ones are"):
        preprocess.new_passengers(write(tmp_path, "gender\nmale\n"))
    with pytest.raises(preprocess.LeakError, match="boat"):
        preprocess.new_passengers(write(tmp_path, "name,boat\nDoe,7\n"))
    assert "survived" not in preprocess.new_passengers(write(tmp_path, "survived,sex\n1,male\n"))


def test_new_passengers_may_come_in_kaggles_columns(tmp_path):
    X = preprocess.new_passengers(write(tmp_path, 'PassengerId,Pclass,Name,SibSp,Cabin,Embarked\n7,3,"Doe, Mr. X",1,C85,Q\n'))
    row = X.iloc[0]
    assert (row["class"], row["siblings_spouses"], row["deck"], row["port"]) == (3, 1, "C", "Queenstown")


# -- the answers stay out of the submission ----------------------------------------------------------------------------------


def reaches(module: str) -> set[str]:
    """Modules of the sprint that a module imports, directly or through others."""
    found, todo = set(), [module]
    while todo:
        found.add(name := todo.pop())
        for node in ast.walk(ast.parse((CODE / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                todo += {node.module or alias.name for alias in node.names} - found
    return found


def test_programs_that_write_a_submission_do_not_reach_the_answers():
    writers = [path.stem for path in CODE.glob("*.py") if "submission" in reaches(path.stem)]
    assert "submission" in writers
    for name in writers:
        assert "titanic3" not in reaches(name), f"{name} writes a submission and imports the answers"
    assert "titanic3" in reaches("eda"), "the check sees an import where there is one"


ATTEMPTS = {
    "open": "open(sys.argv[1])",
    "pandas": "import pandas; pandas.read_csv(sys.argv[1], encoding='latin-1')",
    "path": "from pathlib import Path; Path(sys.argv[1]).read_bytes()",
    "import": f"import_module('{SPRINT}.titanic3')",
}


def in_a_process(code: str, *arguments: str) -> subprocess.CompletedProcess:
    start = f"import sys; from importlib import import_module; submission = import_module('{SPRINT}.submission'); "
    return subprocess.run(
        [sys.executable, "-c", start + code, *arguments], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ)
    )


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_process_that_writes_a_submission_cannot_open_the_answers(attempt, tmp_path):
    path = write(tmp_path, GOOD, "titanic3.csv")
    assert in_a_process(ATTEMPTS[attempt], str(path)).returncode == 0
    locked = in_a_process(f"submission.lock(); {ATTEMPTS[attempt]}", str(path))
    assert locked.returncode == 1 and "error: titanic3 holds Kaggle's answers" in locked.stderr


def test_a_process_that_has_read_the_answers_writes_no_submission():
    ran = in_a_process(f"import_module('{SPRINT}.titanic3'); submission.lock()")
    assert ran.returncode == 1 and "write the submission in a process of its own" in ran.stderr


def test_submission_has_kaggles_form(kaggle, tmp_path):
    ran = in_a_process(
        "from pathlib import Path; "
        f"model = import_module('{SPRINT}.baselines').baseline('logistic_regression', 'tickets', C=0.1); "
        "submission.write(model, Path(sys.argv[1]))",
        str(tmp_path / "out" / "submission.csv"),
    )
    assert ran.returncode == 0, ran.stderr
    table = pd.read_csv(tmp_path / "out" / "submission.csv")
    assert list(table) == ["PassengerId", "Survived"]
    assert table["PassengerId"].tolist() == list(range(892, 1310)) and set(table["Survived"]) == {0, 1}


def test_a_smoke_submission_leaves_the_published_one_alone(kaggle, tmp_path):
    program = [sys.executable, "-m", f"{SPRINT}.predict", "--only", "submission", "--smoke", "--no-mlflow", "--out", str(tmp_path)]
    ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    assert len(pd.read_csv(tmp_path / CODE.parent.name / "submission.csv")) == 418


def test_data_report_runs(tmp_path):
    report = eda.main(eda.Args(smoke=True, out=tmp_path))
    assert report["metrics"]["share_survived"]["mean"] == pytest.approx(342 / 891)
    assert report["metrics"]["share_unknown_deck"]["mean"] == pytest.approx(687 / 891)
    assert len(report["figures"]) == 4 and report["conclusion"]
