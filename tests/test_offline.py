from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import typer
from helpers import WordLM, numbered
from typer.testing import CliRunner

from stm_rl.cli.demonstrate_app import demos_app
from stm_rl.errors import StmError
from stm_rl_agents import heuristics
from stm_rl_agents.demonstrations import DemoEpisode, Demonstrations, card_of, record
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.offline import DATASETS, FORMATS, MINARI, format_of, read_demonstrations, write_demonstrations
from stm_rl_agents.offline.layout import Layout
from stm_rl_agents.offline.minari_io import dataset_id
from stm_rl_agents.policy import PolicyAgent
from stm_rl_envs.vector import MemoryVectorEnv

CARD = {
    "env": "stm_rl/Dialogue-v0",
    "settings": {"slots": 4, "window": 2, "reads": 2},
    "lm": "words-0",
    "encoder": "letters",
    "source": "expert",
    "options": {"split": "train", "lm": None, "reward": ["recall=1.0"]},
}
STRANGE = np.array([np.nan, np.inf, -0.0, 1e-45, np.float32(1) / 3], np.float32)
MINARI_FILE = "stm_rl/Dialogue/expert-v0/data/main_data.hdf5"
MINARI_META = "stm_rl/Dialogue/expert-v0/data/metadata.json"


def invented(lengths: Sequence[int] = (3, 1, 7), slots: int = 4, reads: int = 2, seed: int = 0) -> Demonstrations:
    """Return demonstrations of random numbers, some of them strange."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> Any:
        values = rng.normal(size=shape).astype(np.float32)
        values.flat[: len(STRANGE)] = STRANGE[: values.size]
        return values

    def episode(number: int, steps: int) -> DemoEpisode:
        shapes = {"turn": (6,), "window": (6,), "slots": (slots, 6), "slot_features": (slots, 3), "globals": (2,)}
        return DemoEpisode(
            {name: floats(steps + 1, *shape) for name, shape in shapes.items()},
            rng.integers(0, slots + 1, (steps, 1 + reads)),
            rng.random((steps, (1 + reads) * (slots + 1))) < 0.5,
            floats(steps, 1 + reads),
            floats(steps),
            bool(number % 2),
            f"Überfall {number}:3",
        )

    return Demonstrations([episode(i, steps) for i, steps in enumerate(lengths)], dict(CARD))


def assert_same_bits(a: Demonstrations, b: Demonstrations) -> None:
    assert a.card == b.card
    assert len(a.episodes) == len(b.episodes)
    for one, other in zip(a.episodes, b.episodes, strict=True):
        assert (one.terminated, one.transcript) == (other.terminated, other.transcript)
        assert one.observations.keys() == other.observations.keys()
        pairs = [(one.observations[name], other.observations[name]) for name in one.observations]
        pairs += [(getattr(one, n), getattr(other, n)) for n in ("actions", "masks", "stakes", "rewards")]
        for value, again in pairs:
            assert (value.dtype, value.shape) == (again.dtype, again.shape)
            assert value.tobytes() == again.tobytes()


@pytest.fixture(params=FORMATS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    write_demonstrations(invented(), tmp_path / "demos", request.param)
    return request.param, tmp_path / "demos"


# Round trips.


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("lengths", "slots", "reads"), [((3, 1, 7), 4, 2), ((1,), 1, 1), ((2, 40), 2, 3), ((5,) * 12, 8, 1)]
)
def test_round_trip_keeps_every_bit(
    lengths: tuple[int, ...], slots: int, reads: int, format: str, tmp_path: Path
) -> None:
    demonstrations = invented(lengths, slots, reads)
    write_demonstrations(demonstrations, tmp_path / "a" / "b", format)
    assert format_of(tmp_path / "a" / "b") == format
    assert_same_bits(read_demonstrations(tmp_path / "a" / "b"), demonstrations)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_moved_folder_can_be_read(written: tuple[str, Path], tmp_path: Path) -> None:
    moved = written[1].rename(tmp_path / "moved")
    assert_same_bits(read_demonstrations(moved), invented())


def test_relative_paths_and_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for format in FORMATS:
        write_demonstrations(invented(), Path(format), format)
        assert_same_bits(read_demonstrations(format), invented())
    assert capfd.readouterr() == ("", "")


def test_what_was_recorded_survives(tmp_path: Path) -> None:
    env = MemoryVectorEnv(2, [numbered(8), numbered(5)], lm=WordLM(), autoreset=False)
    demonstrations = Demonstrations(record(heuristics()[3], env, [0, 1]), card_of(env, "lru", "mine"))
    layout = Layout.of(demonstrations, "they")
    assert layout.observation_space() == env.single_observation_space
    assert layout.action_space() == env.single_action_space
    for format in FORMATS:
        write_demonstrations(demonstrations, tmp_path / format, format)
        found = read_demonstrations(tmp_path / format)
        assert_same_bits(found, demonstrations)
        found.check(card_of(env, "", ""))


# What others read.


def test_plain_minari_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", "/elsewhere")
    write_demonstrations(invented(), tmp_path / "demos", MINARI)
    assert os.environ["MINARI_DATASETS_PATH"] == "/elsewhere"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "demos"))
    assert list(minari.list_local_datasets()) == ["stm_rl/Dialogue/expert-v0"]
    dataset = minari.load_dataset("stm_rl/Dialogue/expert-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 11)
    assert dataset.action_space == gym.spaces.MultiDiscrete([5, 5, 5])
    assert dataset.observation_space["slots"].shape == (4, 6)
    assert dataset.env_spec.id == "stm_rl/Dialogue-v0"
    assert dataset.env_spec.kwargs["reads"] == 2
    for episode, ours in zip(dataset.iterate_episodes(), invented().episodes, strict=True):
        assert len(episode) == len(ours)
        assert {len(value) for value in episode.observations.values()} == {len(ours) + 1}
        assert {len(value) for value in episode.infos.values()} == {len(ours) + 1}
        assert episode.terminations.tolist() == [False] * (len(ours) - 1) + [ours.terminated]
        assert episode.truncations[-1] != ours.terminated
        assert episode.infos["action_mask"][-1].tolist() == [True, *[False] * 4] * 3
    environment = dataset.recover_environment()
    assert environment.action_space == dataset.action_space
    assert len(minari.MinariDataset(tmp_path / "demos" / "stm_rl/Dialogue/expert-v0/data")) == 3
    assert_same_bits(read_demonstrations(tmp_path / "demos" / "stm_rl/Dialogue/expert-v0/data"), invented())


def test_plain_datasets_loads_it(tmp_path: Path) -> None:
    import datasets

    write_demonstrations(invented(), tmp_path / "demos", DATASETS)
    found = datasets.load_from_disk(str(tmp_path / "demos"))
    assert (len(found["train"]), len(found["final"])) == (11, 3)
    row = found["train"].with_format("torch")[3]
    assert (int(row["episode"]), int(row["step"]), row["transcript"]) == (1, 0, "Überfall 1:3")
    assert row["observation.slots"].shape == (4, 6)
    assert row["action"].tolist() == invented().episodes[1].actions[0].tolist()
    assert row["action_mask"].dtype == torch.bool
    assert found["train"].with_format("numpy")["terminated"][:].nonzero()[0].tolist() == [3]
    assert found["train"].with_format("numpy")["truncated"][:].nonzero()[0].tolist() == [2, 10]
    assert found["final"]["step"][:] == [3, 1, 7]
    assert json.loads(found["train"].info.description)["source"] == "expert"


def test_episodes_that_others_chose_can_be_read(tmp_path: Path) -> None:
    import datasets

    write_demonstrations(invented(), tmp_path / "demos", DATASETS)
    found = datasets.load_from_disk(str(tmp_path / "demos"))
    chosen = datasets.DatasetDict({name: split.select(range(*at)) for (name, split), at in zip(
        found.items(), [(4, 11), (2, 3)], strict=True)})  # fmt: skip
    datasets.disable_progress_bars()
    chosen.save_to_disk(str(tmp_path / "chosen"))
    datasets.enable_progress_bars()
    expected = Demonstrations(invented().episodes[2:], CARD)
    assert_same_bits(read_demonstrations(tmp_path / "chosen"), expected)


@pytest.mark.parametrize(
    ("env", "source", "expected"),
    [
        ("stm_rl/Dialogue-Easy-v0", "expert", "stm_rl/Dialogue-Easy/expert-v0"),
        ("my_env:my_env/MyEnv-v3", "ppo:run 1", "stm_rl/MyEnv/ppo-run-1-v0"),
        ("transcripts:chats.jsonl+Größe.txt", "lru-v2", "stm_rl/chats-jsonl-Gr-e-txt/lru-v2-v0"),
        ("", "...", "stm_rl/env/agent-v0"),
    ],
)
def test_names_of_minari_datasets(env: str, source: str, expected: str, tmp_path: Path) -> None:
    demonstrations = invented((2,))
    demonstrations.card |= {"env": env, "source": source}
    assert dataset_id(demonstrations.card) == expected
    write_demonstrations(demonstrations, tmp_path / "demos", MINARI)
    assert_same_bits(read_demonstrations(tmp_path / "demos"), demonstrations)


# Errors.


def test_demonstrations_for_another_model_are_refused(written: tuple[str, Path]) -> None:
    found = read_demonstrations(written[1])
    found.check(CARD)
    with pytest.raises(StmError, match="made with lm 'words-0' but the environment has 'words-1'"):
        found.check({**CARD, "lm": "words-1"})
    with pytest.raises(StmError, match=r"made with settings .*'slots': 4.* but the environment has .*'slots': 8"):
        found.check({**CARD, "settings": {"slots": 8, "window": 2, "reads": 2}})


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_of_one_piece_is_not_written(format: str, tmp_path: Path) -> None:
    whole = invented()
    first = whole.episodes[0]
    cases = [
        (Demonstrations([], CARD), "no episode; expected at least one"),
        (Demonstrations(whole.episodes, {"env": "x"}), "does not say settings, lm, encoder, source"),
        (Demonstrations(whole.episodes, {**CARD, "lm": {1}}), "not JSON"),
        (Demonstrations(whole.episodes + invented(reads=1).episodes, CARD), r"episode 3 .*actions of shape \(3, 2\)"),
        (Demonstrations([replace(first, rewards=first.rewards.astype(float))], CARD), "rewards .*expected .*float32"),
        (Demonstrations([replace(first, actions=first.actions + 9)], CARD), r"outside 0\.\.4"),
        (Demonstrations(invented((0,)).episodes, CARD), "has no step"),
    ]
    for demonstrations, message in cases:
        with pytest.raises(StmError, match=message):
            write_demonstrations(demonstrations, tmp_path / "demos", format)
    assert not list(tmp_path.iterdir())


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(StmError, match="'csv' is unknown; expected minari or datasets"):
        write_demonstrations(invented(), tmp_path / "demos", "csv")


def test_an_existing_folder_is_moved_aside_only_if_forced(written: tuple[str, Path], tmp_path: Path) -> None:
    format, folder = written
    with pytest.raises(StmError, match="exists already; give another folder, or --force"):
        write_demonstrations(invented(seed=1), folder, format)
    assert_same_bits(read_demonstrations(folder), invented())
    write_demonstrations(invented(seed=1), folder, format, force=True)
    assert_same_bits(read_demonstrations(folder), invented(seed=1))
    assert_same_bits(read_demonstrations(tmp_path / "demos.1"), invented())


def test_a_crash_leaves_nothing_and_keeps_what_was_there(
    written: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format, folder = written

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", full_disk)
        patch.setattr("datasets.DatasetDict.save_to_disk", full_disk)
        with pytest.raises(OSError, match="No space"):
            write_demonstrations(invented(seed=1), folder, format, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["demos"]
    assert_same_bits(read_demonstrations(folder), invented())
    assert "MINARI_DATASETS_PATH" not in os.environ


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        values = json.loads(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(json.dumps(values), encoding="utf-8")

    return apply


ARROW, INFO = "train/data-00000-of-00001.arrow", "train/dataset_info.json"


@pytest.mark.parametrize(
    ("format", "file", "damage", "message"),
    [
        (MINARI, MINARI_FILE, truncated, "damaged"),
        (MINARI, MINARI_FILE, lambda path: path.write_bytes(b""), "damaged"),
        (MINARI, MINARI_META, truncated, "damaged"),
        (MINARI, MINARI_META, rewritten(lambda meta: meta.update(total_episodes=4)), "damaged"),
        (MINARI, MINARI_META, rewritten(lambda meta: meta.update(data_format="csv")), "damaged"),
        (MINARI, MINARI_META, rewritten(lambda meta: meta.pop("stm_rl")), "has no card"),
        (MINARI, MINARI_META, rewritten(lambda meta: meta["stm_rl"].pop("lm")), "does not say lm"),
        (MINARI, MINARI_META, rewritten(lambda meta: meta["stm_rl"].update(format="x")), "format 'x'; expected 'stm"),
        (MINARI, MINARI_META, rewritten(lambda meta: meta.pop("action_space")), "does not state its spaces"),
        (MINARI, MINARI_META, Path.unlink, "holds neither"),
        (DATASETS, ARROW, truncated, "damaged"),
        (DATASETS, ARROW, lambda path: path.write_bytes(b""), "damaged"),
        (DATASETS, ARROW, Path.unlink, "damaged"),
        (DATASETS, INFO, truncated, "damaged"),
        (DATASETS, INFO, rewritten(lambda info: info.update(description="my data")), "has no card"),
        (DATASETS, INFO, rewritten(lambda info: info.update(description="[]")), "has no card"),
        (DATASETS, "dataset_dict.json", rewritten(lambda one: one.update(splits=["train"])), "no split final"),
        (DATASETS, "dataset_dict.json", Path.unlink, "holds neither"),
    ],
)
def test_damaged_folders(
    format: str, file: str, damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write_demonstrations(invented(), tmp_path / "demos", format)
    damage(tmp_path / "demos" / file)
    with pytest.raises(StmError, match=message) as error:
        read_demonstrations(tmp_path / "demos")
    assert str(tmp_path / "demos") in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_rows_that_are_missing_or_out_of_order_are_noticed(tmp_path: Path) -> None:
    import datasets

    write_demonstrations(invented(), tmp_path / "demos", DATASETS)
    found = datasets.load_from_disk(str(tmp_path / "demos"))
    datasets.disable_progress_bars()
    for number, rows in enumerate([range(10), [1, 0, *range(2, 11)], [*range(5), *range(6, 11)], range(3), []]):
        chosen = datasets.DatasetDict({"train": found["train"].select(rows), "final": found["final"]})
        chosen.save_to_disk(str(tmp_path / f"chosen{number}"))
        with pytest.raises(StmError, match="damaged"):
            read_demonstrations(tmp_path / f"chosen{number}")
    datasets.enable_progress_bars()


def test_folders_that_hold_no_demonstrations(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}", encoding="utf-8")
    for name, message in (("absent", "is no folder"), ("file", "is no folder"), (".", "holds neither")):
        with pytest.raises(StmError, match=message):
            read_demonstrations(tmp_path / name)


def test_two_datasets_in_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_demonstrations(invented(), tmp_path / name, MINARI)
    with pytest.raises(StmError, match="holds 2 Minari datasets; give one of them"):
        read_demonstrations(tmp_path)


@pytest.mark.parametrize("module", ["minari", "h5py", "datasets"])
def test_what_is_not_installed(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    format = DATASETS if module == "datasets" else MINARI
    write_demonstrations(invented(), tmp_path / "there", format)
    monkeypatch.setitem(sys.modules, module, None)
    advice = rf"{module} is not installed; run: pip install 'stm-rl\[offline\]'"
    with pytest.raises(StmError, match=advice):
        write_demonstrations(invented(), tmp_path / "demos", format)
    with pytest.raises(StmError, match=advice):
        read_demonstrations(tmp_path / "there")
    assert not (tmp_path / "demos").exists()


# Commands.


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run ``stm-rl demos`` in an empty folder; return what it prints as JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.add_typer(demos_app, name="demos")

    def run(*args: object, as_json: bool = True) -> Any:
        given = ["demos", *map(str, args), *(["--json"] if as_json else [])]
        result = CliRunner().invoke(app, given, catch_exceptions=False)
        assert result.exit_code == 0
        return json.loads(result.stdout) if as_json else result.stdout

    return run


WITHOUT_LM = ("--lm", "none", "--reward", "recall=1")


@pytest.mark.parametrize("format", FORMATS)
def test_export_and_show(format: str, cli: Callable[..., Any]) -> None:
    given = ("--env", "stm_rl/Recall-v0", "--agent", "informed", "--episodes", 5, "--set", "reads=1")
    report = cli("export", *given, *WITHOUT_LM, "--format", format, "--out", "demos")
    assert report == cli("show", "demos")
    assert report["format"] == format
    assert (report["env"], report["source"], report["lm"]) == ("stm_rl/Recall-v0", "informed", "none")
    assert report["settings"]["reads"] == 1
    assert (report["episodes"], report["terminated"]) == (5, 5)
    assert report["mean_return"] > 0
    assert 0 < report["writes_per_step"] < 1
    shown = cli("show", "demos", as_json=False)
    assert "informed" in shown
    assert "stm_rl/Recall-v0" in shown
    with pytest.raises(StmError, match="demos exists already; give another folder, or --force"):
        cli("export", *given, *WITHOUT_LM, "--format", format, "--out", "demos")
    assert cli("export", *given, *WITHOUT_LM, "--format", format, "--out", "demos", "--force") == report
    assert Path("demos.1").is_dir()


def chats(count: int) -> str:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"Word{i} of {i % 3} Anna"} for i in range(6)]
    return "".join(json.dumps({"id": f"chat-{n}", "messages": turns[: 4 + n % 3]}) + "\n" for n in range(count))


def test_export_of_own_transcripts(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(chats(12), encoding="utf-8")
    report = cli("export", "chats.jsonl", "--agent", "lru", "--out", "demos", "--lm", "none", "--reward", "hindsight=1")
    assert report["env"] == "transcripts:chats.jsonl"
    assert 0 < report["episodes"] <= 12
    assert all(one.transcript for one in read_demonstrations("demos").episodes)


def test_export_of_a_policy(cli: Callable[..., Any], tmp_path: Path) -> None:
    env = gym.make_vec("stm_rl/Recall-v0", 1, vectorization_mode="vector_entry_point", lm=None, reward={"recall": 1.0})
    shapes = {name: space.shape for name, space in env.unwrapped.single_observation_space.spaces.items()}
    size, features, total = shapes["slots"][-1], shapes["slot_features"][-1], shapes["globals"][-1]
    torch.manual_seed(0)
    network = PointerNetwork(size, features, total, reads=2, width=8, layers=1)
    PolicyAgent(network, {"encoder": env.unwrapped.episodes.encoder.id}).save(tmp_path / "runs" / "first")
    given = ("export", "--env", "stm_rl/Recall-v0", "--agent", "runs/first", "--episodes", 2, *WITHOUT_LM)
    assert cli(*given, "--out", "demos")["source"] == "ppo:first"
    with pytest.raises(StmError, match="trained with 2 reads a step but the environment has 1"):
        cli(*given, "--out", "others", "--set", "reads=1")


def test_the_language_model_is_on_the_card(cli: Callable[..., Any]) -> None:
    report = cli("export", "--agent", "oracle", "--episodes", 2, "--set", "turns=24", "--out", "demos")
    assert report["lm"].startswith("tiny")
    assert report["options"] == {"turns": 24, "split": "train", "lm": "tiny"}
    assert report["mean_return"] > 0


def test_bad_agents_and_formats_are_errors_before_anything_is_played(cli: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(StmError, match=r"unknown agent 'lrv'.*one of expert, fifo, informed, longest, lru"):
        cli("export", "--agent", "lrv", "--out", "demos", "--episodes", 1)
    with pytest.raises(StmError, match="'csv' is unknown"):
        cli("export", "--format", "csv", "--out", "demos")
    (tmp_path / "chats.jsonl").write_text(chats(12), encoding="utf-8")
    with pytest.raises(StmError, match="the oracle needs a language model"):
        cli("export", "chats.jsonl", "--agent", "oracle", "--out", "demos", "--lm", "none", "--reward", "hindsight=1")
    assert not (tmp_path / "demos").exists()
