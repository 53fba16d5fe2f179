from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import WordLM, numbered

from stm_rl import StmError
from stm_rl.features import HashedWords
from stm_rl.labels import GainTable, Labeller, LabelStore
from stm_rl.lm import PromptFormat, ScoringEngine
from stm_rl.prepare import Preparer

KEY = {"lm": "words-1", "window": 2, "prefilter": "none"}


def table(seed: int, pairs: int = 5) -> GainTable:
    rng = np.random.default_rng(seed)
    turns = rng.integers(0, 10, pairs).astype(np.int32)
    return GainTable(turns, turns + np.int32(2), rng.normal(size=pairs).astype(np.float32))


def same(a: GainTable | None, b: GainTable) -> bool:
    return a is not None and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("turns", "steps", "gains")
    )


def test_tables_come_back_bit_for_bit(tmp_path: Path) -> None:
    tables = {bytes([i]): table(i, pairs=i) for i in range(6)}
    store = LabelStore(tmp_path / "deep" / "labels.sqlite")
    store.claim(KEY)
    store.put(tables)
    store.put(tables)
    again = LabelStore(tmp_path / "deep" / "labels.sqlite")
    again.claim(KEY)
    assert len(again) == 6
    assert all(same(again.get(key), value) for key, value in tables.items())
    assert again.get(b"other") is None


@pytest.mark.parametrize("changed", [{"lm": "words-2"}, {"window": 3}, {"prefilter": "words"}, {"more": 1}])
def test_labels_of_another_model_or_settings_are_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    LabelStore(tmp_path / "labels").claim(KEY)
    name, value = next(iter(changed.items()))
    with pytest.raises(StmError, match=rf"holds labels made with {name} {KEY.get(name)!r} instead of {value!r}"):
        LabelStore(tmp_path / "labels").claim({**KEY, **changed})


def test_a_damaged_row_costs_that_row_only(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels")
    store.put({b"a": table(1), b"b": table(2)})
    store.close()
    with sqlite3.connect(tmp_path / "labels") as db:
        db.execute("UPDATE labels SET gains = ? WHERE transcript = ?", (b"\0" * 20, b"a"))
    db.close()
    store = LabelStore(tmp_path / "labels")
    assert store.get(b"a") is None
    assert store.damaged == 1
    assert same(store.get(b"b"), table(2))
    store.put({b"a": table(1)})
    assert same(store.get(b"a"), table(1))


@pytest.mark.parametrize("column", ["pairs", "gains", "digest"])
def test_a_flipped_bit_has_that_transcript_labelled_anew(tmp_path: Path, column: str) -> None:
    def label() -> tuple[list[GainTable], Labeller]:
        transcripts = [numbered(7, "x"), numbered(9, "y")]
        prepare = Preparer(transcripts, ScoringEngine(WordLM()), HashedWords(8), 2, PromptFormat())
        labeller = Labeller(prepare, store=LabelStore(tmp_path / "labels"))
        return labeller.label(prepare([0, 1])), labeller

    first, _ = label()
    with sqlite3.connect(tmp_path / "labels") as db:
        (row, value) = db.execute(f"SELECT rowid, {column} FROM labels ORDER BY LENGTH(pairs) LIMIT 1").fetchone()
        db.execute(f"UPDATE labels SET {column} = ? WHERE rowid = ?", (bytes([value[0] ^ 1]) + value[1:], row))
    db.close()
    second, labeller = label()
    assert labeller.scored == len(first[0]) < len(first[1])
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert label()[1].scored == 0
    assert len(LabelStore(tmp_path / "labels")) == 2


@pytest.mark.parametrize("value", [None, "text", 7])
def test_a_row_of_another_kind_is_damaged(tmp_path: Path, value: object) -> None:
    store = LabelStore(tmp_path / "labels")
    store.put({b"a": table(1), b"b": table(2)})
    store.close()
    with sqlite3.connect(tmp_path / "labels") as db:
        db.execute("UPDATE labels SET pairs = ? WHERE transcript = ?", (value, b"a"))
    db.close()
    store = LabelStore(tmp_path / "labels")
    assert store.get(b"a") is None
    assert same(store.get(b"b"), table(2))


@pytest.mark.parametrize("value", [None, "{", "7", "[1]"])
def test_a_damaged_card_is_an_error(tmp_path: Path, value: object) -> None:
    LabelStore(tmp_path / "labels").claim(KEY)
    with sqlite3.connect(tmp_path / "labels") as db:
        db.execute("UPDATE card SET value = ?", (value,))
    db.close()
    with pytest.raises(StmError, match="damaged; move it away and label anew"):
        LabelStore(tmp_path / "labels").claim(KEY)


def test_a_batch_that_is_interrupted_is_not_kept_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LabelStore(tmp_path / "labels")
    store.put({b"a": table(1)})
    with pytest.raises(StmError, match="cannot be used as a file of labels"):
        store.put({b"b": table(2), object(): table(3)})  # type: ignore[dict-item]
    assert len(store) == 1
    assert store.get(b"b") is None


def test_a_folder_and_another_database_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StmError, match="cannot be used as a file of labels"):
        LabelStore(tmp_path)
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE labels (name TEXT)")
    db.close()
    store = LabelStore(tmp_path / "other")
    with pytest.raises(StmError, match="cannot be used as a file of labels"):
        store.get(b"a")


def ask(path: Path) -> GainTable | None:
    store = LabelStore(path)
    store.claim(KEY)
    return store.get(bytes([49]))


def test_a_file_cut_short_is_an_error(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels")
    store.claim(KEY)
    store.put({bytes([i]): table(i, pairs=200) for i in range(50)})
    store.close()
    path = tmp_path / "labels"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StmError, match="cannot be used as a file of labels"):
        ask(path)


def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not labels\n" * 200)
    with pytest.raises(StmError, match="cannot be used as a file of labels"):
        LabelStore(path)
    assert path.read_text() == "not labels\n" * 200


def test_several_processes_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np; from stm_rl.labels import GainTable, LabelStore\n"
        "store = LabelStore(Path(sys.argv[1]))\n"
        f"store.claim({KEY!r})\n"
        "for i in range(40):\n"
        "    one = np.array([i], np.int32)\n"
        "    store.put({f'{sys.argv[2]}-{i}'.encode(): GainTable(one, one + 2, one.astype(np.float32))})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "labels")]
    running = [subprocess.Popen([*command, str(number)]) for number in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(LabelStore(tmp_path / "labels")) == 80
