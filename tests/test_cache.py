"""Scores on disk: found again, bounded, shared by processes, and never in the way when the disk fails."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from helpers import WordLM

from stm_rl.errors import StmError
from stm_rl.lm import CausalLM, ScoreCache, ScoringEngine, load_engine, score_file
from stm_rl.lm import cache as cache_module
from stm_rl.lm.score_file import FILE, clear, default_folder, describe

CONTEXTS = ["the kite is in", "Anna waits at", "the harbor of"] * 2
TARGETS = [" the cupboard", " the station", " Anna", " the harbor", " noon", " kites"]


def score_of(key: bytes) -> float:
    return -int.from_bytes(key[:6], "big") / 7.0


def numbered(*numbers: int) -> dict[bytes, float]:
    keys = [blake2b(str(number).encode(), digest_size=16).digest() for number in numbers]
    return {key: score_of(key) for key in keys}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "some" / "folder"


@pytest.fixture
def cache(folder: Path) -> Iterator[ScoreCache]:
    with closing(ScoreCache(folder)) as cache:
        yield cache


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def run(code: str, *args: object) -> subprocess.Popen[str]:
    """Start Python on ``code``; what all the processes have to import is not worth waiting for one by one."""
    head = "import sys, time; from stm_rl.lm.cache import ScoreCache; from test_cache import numbered, score_of\n"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", head + code, *map(str, args)]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_scores_are_found_again_to_the_last_bit(folder: Path, cache: ScoreCache) -> None:
    scores = numbered(*range(300)) | {bytes(16): -0.0, b"\xff" * 16: -1e-300}
    cache.put(scores, "words")
    assert cache.get([*scores, b"unknown to anyone"[:16]]) == scores  # before they are on disk
    cache.close()
    assert cache.get(scores) == {}
    with closing(ScoreCache(folder)) as again:
        assert again.get(scores) == scores
        assert again.get([]) == {}


def test_scores_are_written_when_there_are_many_or_time_is_up(
    folder: Path, cache: ScoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "BUFFERED", 10)
    cache.put(numbered(*range(9)), "words")
    assert describe(folder)["entries"] == 0
    cache.put(numbered(9), "words")
    assert describe(folder)["entries"] == 10
    monkeypatch.setattr(cache_module, "SECONDS", 0.0)
    cache.put(numbered(10), "words")
    assert describe(folder)["entries"] == 11


def test_a_new_process_computes_nothing(folder: Path) -> None:
    first = load_engine("tiny", cache=folder)
    expected = first.score(CONTEXTS, TARGETS)
    assert (first.computed, first.cached) == (6, 0)
    first.cache.flush()
    code = (
        "import json; from stm_rl.lm import load_engine; from test_cache import CONTEXTS, TARGETS\n"
        "engine = load_engine('tiny', cache=sys.argv[1]); scores = engine.score(CONTEXTS, TARGETS)\n"
        "print(json.dumps([engine.computed, engine.cached, scores.tolist()]))"
    )
    out, _ = run(code, folder).communicate(timeout=120)
    assert json.loads(out) == [0, 6, expected.tolist()]


def test_four_processes_share_the_file(folder: Path) -> None:
    code = (
        "import random; draw = random.Random(int(sys.argv[2])); input(); cache = ScoreCache(sys.argv[1])\n"
        "for step in range(60):\n"
        "    scores = numbered(*(draw.randrange(3000) for _ in range(100))); found = cache.get(scores)\n"
        "    assert found == {key: scores[key] for key in found}\n"
        "    cache.put({key: score for key, score in scores.items() if key not in found}, 'words')\n"
        "    if step % 3 == 0: cache.flush()\n"
        "print(cache._usable, cache.damaged)"
    )
    processes = [run(code, folder, seed) for seed in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120)[0] for process in processes] == ["True 0\n"] * 4
    with closing(ScoreCache(folder)) as cache:
        everything = numbered(*range(3000))
        found = cache.get(everything)
        assert len(found) > 2900  # 24,000 draws
        assert found == {key: everything[key] for key in found}


def test_kill_loses_at_most_what_waits_to_be_written(folder: Path) -> None:
    code = (
        "cache = ScoreCache(sys.argv[1]); step = 0\n"
        "while True:\n"
        "    cache.put(numbered(*range(step * 100, step * 100 + 100)), 'words'); cache.flush(); step += 1\n"
        "    print(step, flush=True)"
    )
    process = run(code, folder)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 20:
        pass
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    written = int(rest[-1]) if rest else 20
    with closing(ScoreCache(folder)) as cache:
        scores = numbered(*range(written * 100))
        assert cache.get(scores) == scores
        assert cache._db.execute("PRAGMA integrity_check").fetchone() == (b"ok",)


def test_a_flipped_byte_costs_one_entry(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = numbered(*range(500))
    with closing(ScoreCache(folder)) as cache:
        cache.put(scores, "words")
    victims = list(scores)[7:9]
    data = bytearray((folder / FILE).read_bytes())
    for victim in victims:
        data[data.find(victim) + 16 + 3] ^= 1  # the key is followed by the score
    (folder / FILE).write_bytes(data)
    with closing(ScoreCache(folder)) as cache:
        assert cache.get(scores) == {key: score for key, score in scores.items() if key not in victims}
        assert cache.damaged == 2
        assert len(warnings(caplog)) == 1
        cache.put({key: scores[key] for key in victims}, "words")
    with closing(ScoreCache(folder)) as cache:
        assert cache.get(scores) == scores
        assert cache.damaged == 0


def test_a_score_that_is_kept_does_not_change(folder: Path) -> None:
    """Else a run would read what differs in the last bit from what the run before it has read."""
    scores = numbered(*range(3))
    with closing(ScoreCache(folder)) as late, closing(ScoreCache(folder)) as early:
        late.put({key: score + 0.5 for key, score in scores.items()}, "words")  # waits to be written
        early.put(scores, "words")
        early.flush()
        late.flush()
        assert early.get(scores) == late.get(scores) == scores


def test_no_flipped_byte_anywhere_gives_a_wrong_score_or_an_error(folder: Path, tmp_path: Path) -> None:
    scores = numbered(*range(400))
    with closing(ScoreCache(folder)) as cache:
        cache.put(scores, "words")
    data = (folder / FILE).read_bytes()
    draw = random.Random(0)
    positions = [*range(16, 100), *(draw.randrange(len(data)) for _ in range(150))]  # all of the file's header
    lost = []
    for position in positions:
        other = tmp_path / "flipped"
        other.mkdir()
        (other / FILE).write_bytes(
            data[:position] + bytes([data[position] ^ (1 << draw.randrange(8))]) + data[position + 1 :]
        )
        with closing(ScoreCache(other)) as cache:
            found = cache.get(scores)
            assert found == {key: scores[key] for key in found}
            cache.put({key: score for key, score in scores.items() if key not in found}, "words")
            lost.append(len(scores) - len(found))
        shutil.rmtree(other)
    assert sorted(lost)[len(lost) // 2] <= 1


def test_the_oldest_half_goes_when_the_file_is_full(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit, commit = 400_000, 60_000
    with closing(ScoreCache(folder, max_bytes=limit)) as cache:
        for step in range(30):
            cache.put(numbered(*range(step * 1000, step * 1000 + 1000)), "words")
            cache.flush()
            assert (folder / FILE).stat().st_size <= limit + commit
        kept = [len(cache.get(numbered(*range(step * 1000, step * 1000 + 1000)))) for step in range(30)]
    assert set(kept) == {0, 1000}
    assert kept == sorted(kept)  # only the newest are left
    assert kept.count(1000) >= 4
    assert not warnings(caplog)


class Slow(WordLM):
    """Another model every time it is made, unless it is given the same identity."""

    def __init__(self, cache_key: str = "", max_tokens: int = 4096, id: str = "words") -> None:
        super().__init__()
        self.cache_key, self.max_tokens, self.id = cache_key, max_tokens, id


def computed(lm: WordLM | CausalLM, cache: ScoreCache) -> int:
    engine = ScoringEngine(lm, cache=cache)
    engine.score(CONTEXTS, TARGETS)
    assert engine.computed + engine.cached == 6
    return engine.computed


def test_what_makes_a_model_another_never_hits(cache: ScoreCache) -> None:
    models = [Slow(), Slow("weights"), Slow("weights tokenizer"), Slow("weights", 2048), Slow("weights", id="other")]
    assert [computed(lm, cache) for lm in models] == [6] * 5
    assert [computed(lm, cache) for lm in models] == [0] * 5


def test_weights_dtype_and_tokenizer_of_a_real_model_make_it_another(cache: ScoreCache) -> None:
    lm = CausalLM.load("tiny")
    assert computed(lm, cache) == 6
    assert computed(CausalLM.load("tiny"), cache) == 0
    assert computed(CausalLM.load("tiny", dtype="bfloat16"), cache) == 6
    other = CausalLM.load("tiny")
    other.model.get_output_embeddings().weight.data[5, 5] += 1
    assert computed(other, cache) == 6
    other = CausalLM.load("tiny")
    other.tokenizer.add_tokens(["zebra"])  # which is in none of the texts
    assert computed(other, cache) == 6


def test_small_memory_still_finds_everything_on_disk(cache: ScoreCache) -> None:
    engine, lm = ScoringEngine(WordLM(), cache_size=2, cache=cache), WordLM()
    for _ in range(3):
        np.testing.assert_array_equal(engine.score(CONTEXTS, TARGETS), lm.score(CONTEXTS, TARGETS))
    assert (engine.computed, engine.cached, engine.requests) == (6, 8, 18)  # the last two were in memory


def test_scores_that_are_not_finite_are_an_error_and_not_kept(cache: ScoreCache) -> None:
    class Broken(WordLM):
        def score(self, contexts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
            return np.array([-1.0, np.nan])

    engine = ScoringEngine(Broken(), cache=cache)
    with pytest.raises(StmError, match=r"gave the score nan for ' kite'; .* check the model's weights"):
        engine.score(["a", "b"], [" harbor", " kite"])
    cache.flush()
    assert describe(cache.path.parent)["entries"] == 0


def no_folder(path: Path) -> None:
    path.parent.write_text("a file where the folder should be")


def no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("These are my notes.\n" * 99)


def other_database(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE young (key TEXT)")


@pytest.mark.parametrize(
    ("spoil", "reason", "advice"),
    [
        (no_folder, "exists", "check the folder's permissions"),
        (no_database, "file is not a database", "move the file away"),
        (other_database, "it is a database of something else", "move the file away"),
    ],
)
def test_what_is_not_ours_is_left_alone_and_scoring_goes_on(
    spoil: object, reason: str, advice: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    spoil(folder / FILE)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    engine = ScoringEngine(WordLM(), cache=ScoreCache(folder))
    check_goes_on(engine)
    assert len(warnings(caplog)) == 1
    for part in (str(folder / FILE), reason, advice, "in memory only"):
        assert part in warnings(caplog)[0]
    for ask in (describe, clear):
        if spoil is not no_folder:
            with pytest.raises(StmError, match=reason):
                ask(folder)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def check_goes_on(engine: ScoringEngine) -> None:
    lm = WordLM()
    for _ in range(2):
        np.testing.assert_array_equal(engine.score(CONTEXTS, TARGETS), lm.score(CONTEXTS, TARGETS))
    np.testing.assert_array_equal(engine.score(["new"], [" text"]), lm.score(["new"], [" text"]))
    engine.cache.flush()
    assert engine.computed + engine.cached == 7


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_folder_that_cannot_be_made_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    check_goes_on(ScoringEngine(WordLM(), cache=ScoreCache("/proc/cache")))
    assert len(warnings(caplog)) == 1
    assert "check the folder's permissions" in warnings(caplog)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    check_goes_on(ScoringEngine(WordLM(), cache=ScoreCache(folder)))
    assert len(warnings(caplog)) == 1


def test_full_disk_is_said_once(folder: Path, cache: ScoreCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.put(numbered(*range(100)), "words")
    cache.flush()
    cache._db.execute("PRAGMA max_page_count = 10")
    cache.put(numbered(*range(100, 3000)), "words")
    cache.flush()
    check_goes_on(ScoringEngine(WordLM(), cache=cache))
    assert len(warnings(caplog)) == 1
    assert "database or disk is full" in warnings(caplog)[0]
    assert "free some space" in warnings(caplog)[0]
    with closing(ScoreCache(folder)) as again:  # what was there is still there
        assert again.get(numbered(*range(3000))) == numbered(*range(100))


def test_file_that_stays_locked_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(score_file, "PATIENCE", 0.05)
    with closing(ScoreCache(folder)) as cache, closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        check_goes_on(ScoringEngine(WordLM(), cache=cache))
    assert len(warnings(caplog)) == 1
    assert "database is locked" in warnings(caplog)[0]
    assert "keeps it locked" in warnings(caplog)[0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_process_goes_on_without(cache: ScoreCache) -> None:
    scores = numbered(*range(5))
    cache.put(scores, "words")
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        cache.put(numbered(6), "words")
        cache.close()
        os.write(writer, str(len(cache.get(scores))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 9) == b"0"
    os.close(reader)
    os.close(writer)
    assert cache.get(scores | numbered(6)) == scores


def test_threads_share_a_cache(cache: ScoreCache) -> None:
    wrong: list[object] = []

    def work(start: int) -> None:
        for step in range(start, start + 2000, 50):
            scores = numbered(*range(step, step + 50))
            cache.put(scores, "words")
            cache.flush()
            if cache.get(scores) != scores:
                wrong.append(step)

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.get(numbered(*range(5000))) == numbered(*range(5000))


def test_clear_deletes_all_or_one_model(folder: Path, cache: ScoreCache) -> None:
    assert clear(folder / "nowhere") == 0
    assert not (folder / "nowhere").exists()
    for name, numbers in {"words": range(3000), "other": range(3000, 3010)}.items():
        cache.put(numbered(*numbers), name)
    cache.flush()
    found = describe(folder)
    assert found["models"] == {"words": 3000, "other": 10}
    assert clear(folder, "words") == 3000
    assert describe(folder)["bytes"] < found["bytes"]
    assert describe(folder)["models"] == {"other": 10}
    assert cache.get(numbered(*range(3010))) == numbered(*range(3000, 3010))
    for place in (folder, folder / "nowhere"):
        with pytest.raises(StmError, match=r"no scores of the model 'words'; it has those of (other|none)$"):
            clear(place, "words")
    cache.put(numbered(5), "words")  # a cache in use goes on
    cache.flush()
    assert clear(folder) == 11
    assert describe(folder)["entries"] == 0


def test_clear_deletes_a_file_too_damaged_to_use(folder: Path) -> None:
    with closing(ScoreCache(folder)) as cache:
        cache.put(numbered(*range(3000)), "words")
    data = bytearray((folder / FILE).read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    (folder / FILE).write_bytes(data)
    with pytest.raises(StmError, match="stm-rl cache clear"):
        describe(folder)
    assert clear(folder) is None
    assert list(folder.iterdir()) == []


def test_usual_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STM_RL_CACHE", "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == Path("here")
    monkeypatch.delenv("STM_RL_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_folder() == tmp_path / "caches" / "stm-rl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == tmp_path / ".cache" / "stm-rl"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder() == tmp_path / "Library" / "Caches" / "stm-rl"
