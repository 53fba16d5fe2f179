"""One chat's memory, kept by an agent, does what the agent does in an episode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WordLM, load_script, transcript
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import StmError, Transcript, Turn
from stm_rl.contexts import Contexts
from stm_rl.features import HashedWords
from stm_rl.lm import PromptFormat, load_engine
from stm_rl.lm.prompt import line
from stm_rl.memory import EMPTY
from stm_rl.worlds import DialogueWorld, ScreenplayWorld, StoryWorld, World
from stm_rl_agents import Agent, FullContext, Informed, Oracle, heuristics
from stm_rl_agents.base import Actions, Masks
from stm_rl_agents.imitation.expert import HindsightExpert
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.serving import Context, LiveSession, load_serving_agent
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES, Observation

ENCODER = HashedWords(16)
NAMES = [agent.name for agent in heuristics()]
WORLDS: list[World] = [DialogueWorld(turns=40), StoryWorld(turns=40), ScreenplayWorld(turns=40)]
CHAT = transcript(
    *("user: My sister Ana lives in Oslo.", "assistant: How nice!", "user: It rains.", "assistant: Again?"),
    *("user: Where does Ana live?", "assistant: In Oslo."),
)


def policy(reads: int = 2, size: int = 16, **card: Any) -> PolicyAgent:
    """Return a policy with random weights that writes and reads often."""
    torch.manual_seed(1)
    network = PointerNetwork(size, len(SLOT_FEATURES), len(GLOBAL_FEATURES), reads, width=16)
    with torch.no_grad():
        for head in (network.pick, network.leave):
            for weight in head.parameters():
                weight.normal_(0, 0.5)
    return PolicyAgent(network, card)


def agent_of(name: str, reads: int = 2) -> Agent:
    return policy(reads) if name == "policy" else next(one for one in heuristics(seed=3) if one.name == name)


class Script(Agent):
    """Plays given actions."""

    name = "script"

    def __init__(self, *actions: list[int]) -> None:
        self.left = list(actions)

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        return np.array([self.left.pop(0)])


def environment(chat: Transcript, size: MemorySettings, **options: Any) -> MemoryVectorEnv:
    options = {"lm": None, "reward": {"write_cost": 1.0}, "encoder": ENCODER} | options
    return MemoryVectorEnv(1, [chat], settings=size, autoreset=False, **options)


def restored(session: LiveSession, agent: Agent, size: MemorySettings, encoder: Any = ENCODER) -> LiveSession:
    state = json.loads(json.dumps(session.state()))
    other = LiveSession.restore(agent, size, state, encoder)
    assert other.state() == session.state()
    return other


def slots_of(env: MemoryVectorEnv) -> list[tuple[int, ...] | None]:
    """Return turn, time of writing, reads and time of reading of each slot."""
    state = env.episodes.memory.get_state()
    values = zip(*(state[name][0].tolist() for name in ("turn", "written", "reads", "last_read")), strict=True)
    return [None if one[0] == EMPTY else one for one in values]


def contents(session: LiveSession) -> list[tuple[int, ...] | None]:
    return [(one.turn, one.written, one.reads, one.last_read) if one else None for one in session.slots()]


def laid_out(context: Context, contexts: Contexts, spare: int = 40) -> str:
    """Return the text in front of a model that writes the next turn."""
    return contexts(context.reads, [line(turn) for turn in context.window], context.speaker, "", spare)[0]


# As in an episode.


@settings(max_examples=40)
@given(
    st.sampled_from(["policy", *NAMES]),
    st.builds(lambda world, seed: world.generate(seed), st.sampled_from(WORLDS), st.integers(0, 10_000)),
    st.builds(MemorySettings, slots=st.integers(1, 6), window=st.integers(1, 4), reads=st.integers(1, 3)),
    st.sets(st.integers(0, 39)),
)
def test_a_session_does_what_the_agent_does_in_an_episode(
    name: str, chat: Transcript, size: MemorySettings, breaks: set[int]
) -> None:
    """At every step, and also where the session is written down and restored."""
    env = environment(chat, size)
    player = agent_of(name, size.reads)
    player.start(env)
    observation, _ = env.reset(options={"transcripts": [0]})
    session = LiveSession(agent_of(name, size.reads), size, ENCODER)
    for number, turn in enumerate(chat.turns[:-1]):
        before = env.episodes.held(0)
        observation, _, _, _, infos = env.step(player.act(observation, env.action_masks()))
        done = session.add(turn)
        assert (done.turn, done.text, done.write) == (number, turn.text, int(infos["writes"][0]))
        assert [read.turn for read in done.reads] == infos["read_turns"][0]
        assert contents(session) == slots_of(env)
        lines = env.episodes.current[0].lines
        assert session.context("x").reads == [lines[one] for one in infos["read_turns"][0]]
        assert (done.superseded is not None) == (done.write > 0 and before[done.write - 1] is not None)
        for read in done.reads:
            assert read.turn == session.slots()[read.slot - 1].turn  # type: ignore[union-attr]
        if number in breaks:
            session = restored(session, agent_of(name, size.reads), size)


def test_reads_are_left_out_where_no_model_is_asked() -> None:
    """Then the state is that of an episode step without reads."""
    size = MemorySettings(slots=2, window=1)
    chat = DialogueWorld(turns=40).generate(0)
    env = environment(chat, size)
    player, session = policy(), LiveSession(policy(), size, ENCODER)
    observation, _ = env.reset(options={"transcripts": [0]})
    for number, turn in enumerate(chat.turns[:-1]):
        action = player.act(observation, env.action_masks())
        if number % 2 == 0:
            action[:, 1:] = 0
        observation, *_, infos = env.step(action)
        done = session.add(turn, read=number % 2 == 1)
        assert [read.turn for read in done.reads] == infos["read_turns"][0]
        assert contents(session) == slots_of(env)
        assert number % 2 or session.context("x").reads == []
    assert env.episodes.memory.reads.sum() > 0


@pytest.mark.parametrize("model", ["tiny-tools", "tiny"])
def test_a_language_model_that_decides_keeps_a_chat(model: str) -> None:
    """Its prompts are those of an episode, and so is what it does."""
    from stm_rl_agents.language.agent import LanguageAgent
    from stm_rl_agents.language.chat import load_policy_model

    size = MemorySettings()
    chat = DialogueWorld(turns=40).generate(5)
    chat = Transcript(chat.turns[:10])
    agent = LanguageAgent(*load_policy_model(model), max_new_tokens=24)
    prompts: list[Any] = []
    decide = agent.decide
    agent.decide = lambda asked, *rest, **more: (prompts.append(asked), decide(asked, *rest, **more))[1]  # type: ignore[method-assign, func-returns-value]
    env = environment(chat, size)
    env.reset(options={"transcripts": [0]})
    agent.start(env)
    played = []
    for _ in chat.turns[:-1]:
        *_, infos = env.step(agent.act(env.episodes.observe(), env.action_masks()))
        played.append((int(infos["writes"][0]), infos["read_turns"][0], slots_of(env)))
    shown, prompts[:] = list(prompts), []
    session = LiveSession(agent, size, ENCODER)
    for number, turn in enumerate(chat.turns[:-1]):
        done = session.add(turn)
        assert (done.write, [read.turn for read in done.reads], contents(session)) == played[number]
        if number % 4 == 2:
            session = restored(session, agent, size)
    assert prompts == shown
    assert model == "tiny" or any(write for write, _, _ in played)


def test_notes_stand_for_turns_and_survive() -> None:
    """A language model may keep a line of its own in place of a turn, and forget."""
    from stm_rl_agents.language.agent import LanguageAgent
    from stm_rl_agents.language.chat import load_policy_model
    from stm_rl_agents.language.tools import Decision

    agent = LanguageAgent(*load_policy_model("tiny-tools"))
    plan = [Decision(1, "Ana: Oslo"), Decision(2), Decision(0, forget=(2,)), Decision(), Decision(1, reads=(1,))]
    agent.decide = lambda *asked, **more: [plan.pop(0)]  # type: ignore[method-assign]
    size = MemorySettings(slots=2, window=2)
    session = LiveSession(agent, size, ENCODER)
    session.add(CHAT.turns[0])
    assert [slot and slot.text for slot in session.slots()] == ["Ana: Oslo", None]
    session = restored(session, agent, size)
    assert session.add(CHAT.turns[1]).forgotten == []
    assert session.add(CHAT.turns[2]).forgotten == [2]
    plan.insert(0, Decision(0, reads=(1,)))
    done = session.add(CHAT.turns[3])
    session = restored(session, agent, size)
    assert [(read.slot, read.turn, read.text) for read in done.reads] == [(1, 0, "Ana: Oslo")]
    assert session.context("user").reads == ["Ana: Oslo"]
    session.add(CHAT.turns[4])  # nothing
    done = session.add(CHAT.turns[5])
    assert (done.write, done.superseded, done.reads) == (1, "Ana: Oslo", [])  # what it reads is in the window
    assert session.slots()[0].text == "In Oslo."  # type: ignore[union-attr]


def test_agents_that_draw_do_so_for_each_session() -> None:
    """Sessions that share such an agent do the same as one alone."""
    size = MemorySettings(slots=3)
    chat = DialogueWorld(turns=40).generate(1).turns
    shared = agent_of("random")
    one, two = (LiveSession(shared, size, ENCODER) for _ in range(2))
    alone = LiveSession(agent_of("random"), size, ENCODER)
    for turn in chat:
        assert one.add(turn) == two.add(turn) == alone.add(turn)


# Looking in.


def test_operations_are_told_as_json() -> None:
    session = LiveSession(Script([1, 0, 0], [0, 0, 0], [1, 1, 2], [2, 1, 2], [0, 1, 1]), MemorySettings(2, 1), ENCODER)
    told = [session.add(turn).as_json() for turn in CHAT.turns[:5]]
    assert json.loads(json.dumps(told)) == told
    assert told[0] == {
        "turn": 0,
        "speaker": "user",
        "text": "My sister Ana lives in Oslo.",
        "write": 1,
        "superseded": None,
        "reads": [],
        "forgotten": [],
        "probabilities": None,
    }
    assert told[2]["superseded"] == "My sister Ana lives in Oslo."
    assert told[2]["reads"] == []  # the turn is in the window
    assert told[3]["reads"] == [{"slot": 1, "turn": 2, "text": "It rains."}]
    first, second = session.slots()
    assert first is not None
    assert second is not None
    assert first.as_json() == {
        "slot": 1,
        "turn": 2,
        "speaker": "user",
        "text": "It rains.",
        "written": 2,
        "reads": 2,
        "last_read": 4,
    }
    assert (second.turn, second.speaker, second.reads) == (3, "assistant", 0)


def test_probabilities_are_those_the_policy_acts_on() -> None:
    size = MemorySettings(slots=3, window=1)
    session = LiveSession(policy(), size, ENCODER)
    for turn in DialogueWorld(turns=40).generate(2).turns:
        free = [number for number, slot in enumerate(session.slots(), 1) if slot is None]
        done = session.add(turn)
        assert done.probabilities is not None
        write, reads = done.probabilities["write"], done.probabilities["read"]
        assert int(np.argmax(write)) == done.write
        assert len(write) == 4
        assert np.shape(reads) == (2, 4)
        assert np.sum([write, *reads], axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
        assert all(chances[slot] == 0 for chances in reads for slot in free)
    assert json.loads(json.dumps(done.as_json())) == done.as_json()


def test_context_is_laid_out_as_in_evaluations() -> None:
    session = LiveSession(Script([1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]), MemorySettings(), ENCODER)
    for turn in CHAT.turns[:5]:
        session.add(turn)
    context = session.context("assistant")
    assert context.reads == ["user: My sister Ana lives in Oslo."]
    assert [turn.text for turn in context.window] == ["Again?", "Where does Ana live?"]
    text = "> user: My sister Ana lives in Oslo.\nassistant: Again?\nuser: Where does Ana live?\nassistant:"
    assert laid_out(context, Contexts(PromptFormat(), WordLM())) == text
    assert session.context("assistant", reads=False).reads == []
    assert session.context("assistant", reads=False).window == context.window
    session.forget(1)
    assert session.context("assistant").reads == []  # what was forgotten is not said


def test_turns_that_may_not_be_written_are_not() -> None:
    session = LiveSession(Script([1, 0, 0], [2, 0, 0]), MemorySettings(), ENCODER)
    assert session.add(Turn("Where is it?", "user", {"writable": False})).write == 0
    assert session.add(Turn("Here.", "user")).write == 2
    assert [slot and slot.text for slot in session.slots()] == [None, "Here.", None, None]


def test_forgetting_and_clearing() -> None:
    session = LiveSession(agent_of("fifo"), MemorySettings(slots=3), ENCODER)
    for turn in CHAT.turns[:4]:
        session.add(turn)
    session.forget(2)
    assert [slot is None for slot in session.slots()] == [False, True, False]
    for slot in (0, 4):
        with pytest.raises(StmError, match=f"slot {slot} cannot be forgotten; expected 1 to 3"):
            session.forget(slot)
    session.clear()
    assert session.slots() == [None] * 3
    assert "Ana" not in json.dumps(session.state())  # nothing of it is left
    assert session.turns == 4
    assert session.add(CHAT.turns[4]).write == 1


def test_the_size_of_a_state_is_bounded() -> None:
    def size_of(turns: int) -> int:
        session = LiveSession(agent_of("fifo"), MemorySettings(slots=8, window=3), ENCODER)
        for number in range(turns):
            session.add(Turn(f"The code of room {number:04} is {number:04}.", f"guest {number % 77:02}"))
        return len(json.dumps(session.state()))

    assert size_of(1000) - size_of(50) < 100  # numbers of turns have more digits


# Who may keep a chat.


@pytest.mark.parametrize("agent", [Oracle(), Informed(), FullContext(), HindsightExpert(lambda items: [], 0.1)])
def test_references_that_look_ahead_are_refused(agent: Agent) -> None:
    with pytest.raises(StmError, match=f"{agent.name} cannot keep the memory of a chat: .* not known before the end"):
        LiveSession(agent, MemorySettings(), ENCODER)
    with pytest.raises(StmError, match=f"{agent.name} cannot keep the memory of a chat"):
        load_serving_agent(agent.name)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (policy(reads=1), "trained with 1 reads a step but the environment has 2"),
        (policy(size=8), "reads texts of 8 numbers but the environment gives 16"),
        (policy(encoder="minilm"), "trained on texts encoded by minilm but the environment uses hashed-words-16"),
    ],
)
def test_a_policy_has_to_fit(agent: Agent, message: str) -> None:
    with pytest.raises(StmError, match=message):
        LiveSession(agent, MemorySettings(), ENCODER)


def test_an_agent_that_draws_from_nowhere_is_refused() -> None:
    class Dice(Script):
        draws = True

    with pytest.raises(StmError, match="script acts at random but has no generator `rng`"):
        LiveSession(Dice(), MemorySettings(), ENCODER)


@pytest.mark.parametrize("change", [{"read": None}, {"random": {"state": 3}}])
def test_a_damaged_state_of_a_session_is_told(change: dict[str, Any]) -> None:
    session = LiveSession(agent_of("random"), MemorySettings(), ENCODER)
    session.add(CHAT.turns[0])
    with pytest.raises(StmError, match="the state of a chat is damaged"):
        LiveSession.restore(agent_of("random"), MemorySettings(), session.state() | change, ENCODER)


def test_after_an_agent_has_failed_a_session_goes_on_from_its_last_state() -> None:
    size = MemorySettings()
    session = LiveSession(Script([1, 0, 0]), size, ENCODER)
    session.add(CHAT.turns[0])
    state = session.state()
    with pytest.raises(IndexError):
        session.add(CHAT.turns[1])
    with pytest.raises(StmError, match="restore the chat from its last state"):
        session.add(CHAT.turns[1])
    session = LiveSession.restore(Script([0, 0, 0]), size, state, ENCODER)
    assert session.add(CHAT.turns[1]).turn == 1


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({}, MemorySettings()),
        ({"env": "stm_rl/Dialogue-Easy-v0"}, MemorySettings(slots=6)),
        ({"env": "stm_rl/Dialogue-v0", "settings": {"slots": 8, "window": 3, "turns": 80}}, MemorySettings(8, 3)),
        ({"env": "transcripts:a.jsonl", "settings": {"window": 4}}, MemorySettings(window=4)),
        ({"env": "stm_rl/Transcript-Hard-v0 on transcripts:a.jsonl"}, MemorySettings(slots=2, reads=1)),
    ],
)
def test_a_run_folder_tells_what_its_policy_was_trained_with(
    tmp_path: Path, card: dict[str, Any], expected: MemorySettings
) -> None:
    policy(expected.reads, **card).save(tmp_path)
    agent, found = load_serving_agent(str(tmp_path))
    assert isinstance(agent, PolicyAgent)
    assert found == expected
    _, other = load_serving_agent(str(tmp_path), slots=16, window=5)
    assert (other.slots, other.window, other.reads) == (16, 5, expected.reads)
    LiveSession(agent, other, ENCODER).add(CHAT.turns[0])


def test_the_encoder_of_training_is_used(tmp_path: Path) -> None:
    policy(size=32, env="stm_rl/Dialogue-v0", settings={"encoder": "words32"}, encoder="hashed-words-32").save(tmp_path)
    agent, found = load_serving_agent(str(tmp_path))
    LiveSession(agent, found).add(CHAT.turns[0])


def test_heuristics_are_found_by_name() -> None:
    for name in NAMES:
        agent, found = load_serving_agent(name, slots=7)
        assert (agent.name, found) == (name, MemorySettings(slots=7))


def test_unknown_agents_are_told(tmp_path: Path) -> None:
    with pytest.raises(StmError, match="unknown agent 'nobody': it is neither a run folder nor one of none, random"):
        load_serving_agent("nobody")
    with pytest.raises(StmError, match=r"expected policy\.json and policy.safetensors"):
        load_serving_agent(str(tmp_path))
    policy(env="elsewhere/Mine-v0").save(tmp_path)
    with pytest.raises(StmError, match="trained in 'elsewhere/Mine-v0', which is not known here"):
        load_serving_agent(str(tmp_path))


# The bar.


def test_a_long_dialogue_is_answered_as_in_an_evaluation() -> None:
    """300 turns; the embedded model writes what the assistant says, live and in the environment."""
    engine = load_engine()
    size = MemorySettings(slots=16, mode="generate", max_new_tokens=24)
    chat = DialogueWorld(turns=300).generate(11)
    env = environment(chat, size, lm=engine, reward={"consistency": 1.0})
    player = agent_of("similarity")
    observation, _ = env.reset(options={"transcripts": [0]})
    session = LiveSession(agent_of("similarity"), size, ENCODER)
    contexts = Contexts(PromptFormat(), engine.lm)
    own, probes = size.authored(chat), {probe.turn: probe for probe in chat.probes}
    turn, recalled, needed, texts, right = chat.turns[0], 0, 0, 0, 0
    for number in range(len(chat) - 1):
        session.add(turn)
        observation, *_, infos = env.step(player.act(observation, env.action_masks()))
        following = chat.turns[number + 1]
        turn = following
        if own[number + 1]:
            context = laid_out(session.context(following.speaker), contexts, size.max_new_tokens)
            text = engine.generate([context], size.max_new_tokens)[0].strip() or "..."
            assert text == infos["written"][0]
            texts += 1
            turn = Turn(text, following.speaker, following.meta)
        if number + 1 in probes:
            far = [one for one in probes[number + 1].evidence if one <= number - size.window]
            held = len({slot.turn for slot in session.slots() if slot} & set(far))
            assert (len(far), held) == (infos["evidence_needed"][0], infos["evidence_held"][0])
            needed, recalled = needed + len(far), recalled + held
            right += probes[number + 1].answer in turn.text
        assert contents(session) == slots_of(env)
    assert texts > 100
    assert 0 < recalled < needed
    assert right > 15  # with the facts in front of it the model knows the answer


def test_the_benchmark_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = load_script("bench_serving")
    out = tmp_path / "bench.json"
    monkeypatch.setattr("sys.argv", ["bench_serving", "--slots", "2", "16", "--turns", "12", "--json", str(out)])
    script.main()
    shown = capsys.readouterr().out
    assert "| slots | add | context | state | all |" in shown
    assert "bar: at most 15 ms median with 16 slots" in shown
    found = json.loads(out.read_text())["milliseconds"]
    assert found["16"]["wall"]["all"]["median"] >= found["16"]["wall"]["add"]["median"] > 0
