from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_legal
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import Probe, StmError, Transcript
from stm_rl.features import HashedWords
from stm_rl.memory_tools import MAPPINGS, ToolReport, plan, tool_mapping, tool_script
from stm_rl.readers import read_transcripts, write_messages
from stm_rl.worlds import DialogueWorld
from stm_rl_agents import Agent, Oracle, heuristics
from stm_rl_agents.demonstrations import Demonstrations, record
from stm_rl_agents.tool_calls import ToolCallDemonstrator, tool_demonstrations
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

ENCODER = HashedWords(8)


def call(name: str, arguments: Any = None, id: str = "") -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return {"id": id, "type": "function", "function": {"name": name, "arguments": text}}


def calls(*made: dict[str, Any], said: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": said, "tool_calls": list(made)}


def result(id: str, value: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": value if isinstance(value, str) else json.dumps(value)}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def read(tmp_path: Path, *chats: Sequence[dict[str, Any]]) -> list[Transcript]:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": list(chat)}) + "\n" for chat in chats))
    return list(read_transcripts(path))


def planned(
    transcript: Transcript, mapping: str = "mem0", slots: int = 2, reads: int = 2
) -> tuple[list[list[int]], ToolReport]:
    report = ToolReport()
    made = plan(tool_script(transcript, tool_mapping(mapping)), slots, reads, None, report)
    assert made is not None
    assert report.calls == report.mapped.total() + report.missed
    return made.actions.tolist(), report


def reasons(report: ToolReport) -> dict[str, int]:
    return {reason: entry.count for reason, entry in report.unmappable.items()}


LETTA = [
    {"role": "system", "content": "You are Sam. Keep core memory and archival memory about your human up to date."},
    user("Hi! I'm Chloe and I live in Lisbon."),
    calls(
        call("core_memory_append", {"label": "human", "content": "Name: Chloe. Lives in Lisbon."}, "c1"),
        said="A name. I should remember it.",
    ),
    result("c1", {"status": "OK", "message": "None", "time": "2024-05-01 10:00:00 AM"}),
    calls(call("send_message", {"message": "Nice to meet you, Chloe!"}, "c2"), said="Be kind."),
    result("c2", {"status": "OK", "message": "None"}),
    user("My sister Nadia breeds alpacas near Evora."),
    calls(call("archival_memory_insert", {"content": "Sister Nadia breeds alpacas near Evora"}, "c3")),
    result("c3", {"status": "OK", "message": "None"}),
    calls(call("send_message", {"message": "Alpacas! How lovely."}, "c4")),
    user("By the way, I moved: I live in Porto now, no longer in Lisbon."),
    calls(
        call(
            "core_memory_replace",
            {"label": "human", "old_content": "Lives in Lisbon.", "new_content": "Lives in Porto."},
            "c5",
        ),
        call("send_message", {"message": "Noted, Porto it is."}, "c6"),
    ),
    user("What does my sister do?"),
    calls(call("archival_memory_search", {"query": "sister", "page": 0}, "c7")),
    result("c7", {"status": "OK", "message": "Showing 1 of 1 results: Sister Nadia breeds alpacas near Evora"}),
    calls(call("send_message", {"message": "Nadia breeds alpacas."}, "c8")),
]


def test_letta_transcript_becomes_actions(tmp_path: Path) -> None:
    (chat,) = read(tmp_path, LETTA)
    script = tool_script(chat, tool_mapping("letta"))
    assert script.transcript is not None
    assert [str(turn) for turn in script.transcript.turns[1:5]] == [
        "user: Hi! I'm Chloe and I live in Lisbon.",
        "assistant: Nice to meet you, Chloe!",
        "user: My sister Nadia breeds alpacas near Evora.",
        "assistant: Alpacas! How lovely.",
    ]
    assert not any("tool_calls" in turn.meta for turn in script.transcript.turns)
    actions, report = planned(chat, "letta")
    #                   system, Lisbon,    hello,     sister,    lovely,    Porto,     noted,     question
    assert actions == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [2, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 2, 0]]
    assert report.mapped == {"write": 2, "supersede": 1, "read": 1, "say": 4}
    assert not report.unmappable


def test_replacing_by_nothing_forgets(tmp_path: Path) -> None:
    chat = [
        user("I own a violin"),
        calls(call("core_memory_append", {"content": "Owns a violin"}), said="Ah"),
        user("I own a cello"),
        calls(call("core_memory_append", {"content": "Owns a cello"}), said="Oh"),
        user("I sold the violin"),
        calls(call("core_memory_replace", {"old_content": "Owns a violin", "new_content": ""}), said="Pity"),
        user("I bought a flute"),
        calls(call("core_memory_append", {"content": "Owns a flute"}), said="Good"),
    ]
    actions, report = planned(*read(tmp_path, chat), mapping="letta", slots=3)
    assert [action[0] for action in actions] == [1, 0, 2, 0, 0, 0, 1]  # the forgotten slot comes before the free one
    assert report.mapped == {"write": 3, "forget": 1}


MEM0 = [
    user("I'm allergic to peanuts and my dentist is Dr. Okafor."),
    calls(
        call("add_memory", {"text": "Allergic to peanuts"}, "a"), call("add_memory", {"text": "Dentist: Okafor"}, "b")
    ),
    result("a", {"results": [{"id": "m-1", "memory": "Allergic to peanuts", "event": "ADD"}]}),
    result("b", {"results": [{"id": "m-2", "memory": "Dentist is Okafor", "event": "ADD"}]}),
    says("I'll keep that in mind."),
    user("I play chess on Fridays."),
    calls(call("add_memory", {"messages": [user("I play chess on Fridays.")]}, "c"), said="Enjoy!"),
    result("c", {"status": "PENDING", "event_id": "e"}),
    user("Which games do I play?"),
    calls(call("search_memories", {"query": "games chess"}, "d")),
    result("d", {"results": [{"id": "m-3", "memory": "Plays chess on Fridays", "score": 0.9}]}),
    says("Chess."),
    user("Chess moved to Mondays."),
    calls(call("update_memory", {"memory_id": "m-3", "text": "Plays chess on Mondays"}, "e"), said="Mondays, then."),
    user("My dentist retired."),
    calls(call("delete_memory", {"memory_id": "m-2"}, "f"), said="Forgotten."),
    user("Who is my dentist?"),
    calls(call("search_memories", {"query": "dentist"}, "g")),
    result("g", {"results": []}),
    calls(
        call("delete_memory", {"memory_id": "m-2"}), call("update_memory", {"memory_id": "x", "text": "Who, dentist?"})
    ),
    says("I don't know."),
]


def test_mem0_transcript_becomes_actions_by_ids(tmp_path: Path) -> None:
    actions, report = planned(*read(tmp_path, MEM0))
    assert actions[0] == [1, 0, 0]
    assert actions[2] == [2, 0, 0]
    assert actions[4] == [0, 2, 0]
    assert actions[6] == [2, 0, 0]
    assert np.array(actions)[[1, 3, 5, 7, 8, 9, 10]].sum() == 0
    assert report.mapped == {"write": 3, "read": 1, "supersede": 1, "forget": 1}
    assert report.merged == 1  # two facts of one turn
    assert reasons(report) == {
        "no slot holds what it reads": 1,
        "what it names is held no more": 1,
        "it names an id that no call or result before gave": 1,
    }
    first = report.as_dict()["unmappable"]["it names an id that no call or result before gave"]["first"]
    assert first.startswith(f"{tmp_path / 'chats.jsonl'}:1: messages[19]: update_memory(")


def test_converted_transcripts_mean_the_same(tmp_path: Path) -> None:
    (chat,) = read(tmp_path, MEM0)
    write_messages([chat], tmp_path / "own.jsonl")
    (again,) = read_transcripts(tmp_path / "own.jsonl")
    assert planned(again) == planned(chat)
    odd = replace(chat, turns=(replace(chat.turns[0], meta={"tool_calls": ("add", {"nam": 1})}), *chat.turns[1:]))
    assert planned(odd)[0] == planned(chat)[0]


def test_what_cannot_be_an_action_is_reported(tmp_path: Path) -> None:
    chat = [
        calls(call("add", {"text": "early"})),
        user("I keep bees in Dorset"),
        says("How nice"),
        calls(call("add", {"text": "User keeps bees"})),
        user("And what about the weather"),
        calls(
            call("get_weather", {"city": "Rome"}),
            call("add", '{"text": '),
            call("add", "[1]"),
            call("add", {}),
            call("delete", {}),
            call("search", {}),
            call("add", {"text": "zebra"}, "bad"),
            call("search", {"query": "honey"}),
        ),
        result("bad", {"error": "quota"}),
        says("Sunny weather"),
        says("Bye"),
        calls(call("add", {"text": "Bye"})),
    ]
    actions, report = planned(*read(tmp_path, chat))
    assert np.array(actions).sum() == 0
    assert reasons(report) == {
        "it comes before the first turn": 1,
        "its content is that of an older turn, which cannot be written any more": 1,
        "get_weather is not in the mapping": 1,
        "the arguments are not a JSON object": 2,
        "it gives no content": 1,
        "it does not say what to supersede or forget": 1,
        "it does not say what to read": 1,
        "the call failed, says its result": 1,
        "no slot holds what it reads": 1,
        "it comes after the last step: no turn follows": 1,
    }


def test_steps_that_nobody_knows_have_no_stakes(tmp_path: Path) -> None:
    chat = [
        user("I keep bees"),
        calls(call("add", {"text": "Keeps bees"}), said="Nice"),
        calls(call("add", {"text": "unicorn"})),
        user("Where are my goats"),
        calls(call("search", {"query": "goats"})),
        says("Who knows"),
    ]
    demonstrations, _ = tool_demonstrations(read(tmp_path, chat), "mem0", MemorySettings(reads=1), ENCODER)
    (episode,) = demonstrations.episodes
    assert episode.actions.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert episode.stakes.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert episode.terminated


def test_read_and_superseded_in_one_step_is_only_superseded(tmp_path: Path) -> None:
    chat = [
        user("I live in Rome"),
        calls(call("add", {"text": "Lives in Rome"}, "a"), said="Ah"),
        result("a", {"id": "7"}),
        user("I live in Oslo"),
        calls(call("search", {"query": "Where live"}), call("update", {"memory_id": "7", "data": "Lives in Oslo"})),
        says("Brr"),
    ]
    actions, report = planned(*read(tmp_path, chat))
    assert actions == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert reasons(report) == {"its slot is superseded in the same step": 1}


def test_searches_of_one_step_share_its_reads(tmp_path: Path) -> None:
    chat = [user("apple pie")]
    for word in ("pie", "cake", "tart", "bread"):
        chat += [says("Go on"), user(f"apple {word} number {word}"), calls(call("add", {"text": f"apple {word}"}))]
    searches = [call("search", {"query": f"apple {word}"}) for word in ("cake", "tart", "bread")]
    chat += [says("Well"), user("Which?"), calls(*searches), says("Two")]
    actions, report = planned(*read(tmp_path, chat), slots=4)
    assert actions[-1] == [0, 2, 3]
    assert reasons(report) == {}  # the third also matches a slot that is read
    actions, report = planned(*read(tmp_path, chat), slots=4, reads=1)
    assert actions[-1] == [0, 2]
    assert report.mapped["read"] == 3


def test_full_memory_supersedes_the_least_recently_used(tmp_path: Path) -> None:
    chat = []
    for number, word in enumerate(("apple", "banana", "cherry")):
        chat += [user(f"I like {word}"), calls(call("add", {"text": word}), said="Ok")]
        if number == 1:
            chat += [user("What fruit?"), calls(call("search", {"query": "apple"}), said="Mmm")]
    actions, report = planned(*read(tmp_path, chat))
    assert [action[0] for action in actions] == [1, 0, 2, 0, 0, 0, 2]
    assert report.superseded_for_room == 1


def test_probes_and_writability_survive(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    messages = [
        {**user("My cat is Tom"), "meta": {"writable": False}},
        calls(call("add", {"text": "Cat: Tom"})),
        says("Cute"),
        user("My cat is?"),
        says("Tom"),
    ]
    probes = [{"turn": 4, "evidence": [0], "answer": "Tom"}, {"turn": 3, "evidence": [1]}]
    path.write_text(json.dumps({"messages": messages, "probes": probes}))
    (chat,) = read_transcripts(path)
    script = tool_script(chat, tool_mapping("mem0"))
    assert script.transcript is not None
    assert script.transcript.probes == (Probe(3, (0,), "Tom"),)
    _, report = planned(chat)
    assert reasons(report) == {"the turn may not be written to memory": 1}


def test_report_counts_transcripts(tmp_path: Path) -> None:
    chats = [
        [user("I keep bees"), calls(call("add", {"text": "Keeps bees"})), says("Nice")],
        [user("Hello"), says("Hi")],
        [user("Hello"), calls(call("add", {"text": "bees"}))],
        [user("Hello"), calls(call("add", {"text": "bees"})), says("Hi")],
    ]
    demonstrations, report = tool_demonstrations(read(tmp_path, *chats), "mem0", encoder=ENCODER)
    assert len(demonstrations.episodes) == report.demonstrations == 1
    assert demonstrations.card["source"] == "tool-calls:mem0"
    assert demonstrations.card["lm"] == "none"
    assert (report.transcripts, report.without_calls, report.too_short, report.nothing_mapped) == (4, 1, 1, 1)
    assert report.first_too_short == f"{tmp_path / 'chats.jsonl'}:3"
    assert report.calls == report.mapped.total() + report.missed == 3
    json.dumps(report.as_dict())


def test_nothing_to_demonstrate_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        StmError, match=r"none of 1 transcripts .* its content is found in no turn \(1 calls, first .*:1:"
    ):
        tool_demonstrations(read(tmp_path, [user("Hello"), calls(call("add", {"text": "bees"})), says("Hi")]), "mem0")


@pytest.mark.parametrize("slot", [0, 5, -1, True, "x", 1.5])
def test_slot_that_does_not_exist_is_an_error(tmp_path: Path, slot: Any) -> None:
    chat = [user("Hello"), calls(call("memory_write", {"slot": slot, "text": "Hello"})), says("Hi")]
    with pytest.raises(StmError, match=r"chats.jsonl:1: messages\[1\]: memory_write\(.* names slot .*expected 1 to 4"):
        tool_demonstrations(read(tmp_path, chat), "stm-rl")


def test_second_write_to_another_slot_does_not_fit(tmp_path: Path) -> None:
    two = calls(
        call("memory_write", {"slot": 1}), call("memory_write", {"slot": "2"}), call("memory_write", {"slot": 1})
    )
    actions, report = planned(*read(tmp_path, [user("Hello"), two, says("Hi")]), mapping="stm-rl")
    assert actions == [[1, 0, 0]]
    assert list(reasons(report)) == ["one write a step: another call of the step wrote the turn to another slot"]


@pytest.mark.parametrize("deep", ['{"text": ' + "[" * 100_000, '{"text": ' + '{"content": ' * 900 + "1" + "}" * 901])
def test_nesting_without_end_is_reported(tmp_path: Path, deep: str) -> None:
    chat = [user("I keep bees"), calls(call("add", deep, "a")), result("a", deep), says("Nice")]
    _, report = planned(*read(tmp_path, chat))
    assert report.missed == 1


def test_demonstrator_fits_one_environment(tmp_path: Path) -> None:
    chat, other = read(tmp_path, [user("Hello"), says("Hi")], [user("Good day"), says("Hi")])

    def env(slots: int) -> MemoryVectorEnv:
        options = MemorySettings(slots=slots)
        return MemoryVectorEnv(1, [chat], settings=options, lm=None, reward={"write_cost": 1.0}, encoder=ENCODER)

    made = plan(tool_script(chat, tool_mapping("mem0")), 4, 2, None, ToolReport())
    assert made is not None
    observation, _ = env(4).reset()
    agent = ToolCallDemonstrator([chat], [made])
    with pytest.raises(StmError, match="was not started"):
        agent.act(observation, env(4).action_masks())
    with pytest.raises(StmError, match="other transcripts"):
        ToolCallDemonstrator([other], [made]).start(env(4))
    with pytest.raises(StmError, match=r"slots, reads \(3, 2\) but"):
        agent.start(env(3))
    agent.start(env(4))


# Round trip: what an agent does, told as calls of our own tools, gives the same actions back.


def told(transcript: Transcript, actions: Any, apart: bool) -> list[dict[str, Any]]:
    messages = []
    for step, turn in enumerate(transcript.turns):
        message = {"role": turn.speaker, "content": turn.text, "meta": {"writable": turn.writable}}
        if 0 < step <= len(actions) and not apart:
            message["tool_calls"] = spelled(actions[step - 1], transcript.turns[step - 1].text) or None
        messages.append(message)
        if step < len(actions) and apart and (made := spelled(actions[step], turn.text)):
            messages.append(calls(*made))
            messages += [result(one["id"], "OK") for one in made]
    return messages


def spelled(action: Any, text: str) -> list[dict[str, Any]]:
    made = [call("memory_write", {"slot": int(action[0]), "text": text}, "w")] if action[0] else []
    return made + ([call("memory_read", {"slots": [int(s) for s in action[1:] if s]}, "r")] if action[1:].any() else [])


def effective(action: Any) -> list[int]:
    reads = [slot for slot in dict.fromkeys(action[1:].tolist()) if slot and slot != action[0]]
    return [int(action[0]), *reads, *[0] * (len(action) - 1 - len(reads))]


@pytest.mark.parametrize("apart", [False, True], ids=["beside-text", "apart"])
@pytest.mark.parametrize("who", [Oracle(), *heuristics()[1:]], ids=lambda who: who.name)
def test_round_trip_of_an_agents_actions(tmp_path: Path, who: Agent, apart: bool) -> None:
    world = DialogueWorld(turns=40)
    transcripts = [world.generate(seed) for seed in range(5)]
    options = MemorySettings(slots=3, window=2, reads=2, max_steps=36)
    env = MemoryVectorEnv(
        3, transcripts, settings=options, lm=None, reward={"write_cost": 1.0}, encoder=ENCODER, autoreset=False
    )
    episodes = record(who, env, range(5))
    rows = [{"messages": told(t, e.actions, apart)} for t, e in zip(transcripts, episodes, strict=True)]
    path = tmp_path / "told.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    demonstrations, report = tool_demonstrations(read_transcripts(path), "stm-rl", options, ENCODER)
    assert len(demonstrations.episodes) == len(episodes)
    for back, episode in zip(demonstrations.episodes, episodes, strict=True):
        assert back.actions.tolist() == [effective(action) for action in episode.actions]
        if who.name != "random":  # which also reads slots it supersedes, or twice
            np.testing.assert_array_equal(back.actions, episode.actions)
            np.testing.assert_array_equal(back.masks, episode.masks)
            for name, seen in episode.observations.items():
                np.testing.assert_array_equal(back.observations[name], seen, err_msg=name)
            assert not report.unmappable


# Any sequence of calls.

WORDS = st.sampled_from("bees goats Rome Oslo chess sister Nadia the".split())
TEXT = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
IDS = st.sampled_from(["m1", "m2", "m3"])
MEM0_CALLS = st.one_of(
    st.builds(lambda text: call("add", {"text": text}, "x"), TEXT),
    st.builds(lambda text, id: call("update", {"memory_id": id, "data": text}, "x"), TEXT, IDS),
    st.builds(lambda id: call("delete", {"memory_id": id}, "x"), IDS),
    st.builds(lambda query: call("search", {"query": query}, "x"), TEXT),
    st.builds(lambda id: call("get", {"memory_id": id}), IDS),
    st.sampled_from([call("add", "{"), call("weather"), call("add", {"text": 3}), call("search", {"query": ""})]),
)
SLOTS = st.integers(1, 2)
OWN_CALLS = st.one_of(
    st.builds(lambda slot: call("memory_write", {"slot": slot}), SLOTS),
    st.builds(lambda text: call("memory_write", {"text": text}), TEXT),
    st.builds(lambda slot: call("memory_forget", {"slot": slot}), SLOTS),
    st.builds(lambda slots: call("memory_read", {"slots": slots}), st.lists(SLOTS, max_size=3)),
)


def messages_of(made: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    memory = st.fixed_dictionaries({"id": IDS, "memory": TEXT})
    one = st.one_of(
        st.builds(lambda text, writable: {**user(text), "meta": {"writable": writable}}, TEXT, st.booleans()),
        st.builds(
            lambda calls_, said: calls(*calls_, said=said), st.lists(made, min_size=1, max_size=3), st.none() | TEXT
        ),
        st.builds(lambda value: result("x", value), st.lists(memory, max_size=2) | st.just("OK")),
    )
    return st.lists(one, min_size=2, max_size=16)


@settings(max_examples=120, deadline=None)
@given(
    chats=st.lists(st.one_of(messages_of(MEM0_CALLS), messages_of(OWN_CALLS)), min_size=1, max_size=3),
    name=st.sampled_from(["mem0", "stm-rl"]),
    max_steps=st.none() | st.integers(1, 5),
)
def test_any_calls_give_legal_actions_and_are_counted_once(
    tmp_path_factory: pytest.TempPathFactory, chats: list[list[dict[str, Any]]], name: str, max_steps: int | None
) -> None:
    transcripts = read(tmp_path_factory.mktemp("any"), *chats)
    total = sum(len(turn.meta.get("tool_calls", ())) for chat in transcripts for turn in chat.turns)
    options = MemorySettings(slots=2, reads=2, max_steps=max_steps)
    report = ToolReport()
    scripts = [tool_script(chat, tool_mapping(name)) for chat in transcripts]
    plans = [plan(script, 2, 2, max_steps, report) for script in scripts]
    assert report.calls == total == report.mapped.total() + report.missed
    played = [
        (s.transcript, p) for s, p in zip(scripts, plans, strict=True) if s.transcript is not None and p is not None
    ]
    if not played:
        return
    stripped = [transcript for transcript, _ in played]
    env = MemoryVectorEnv(
        2, stripped, settings=options, lm=None, reward={"write_cost": 1.0}, encoder=ENCODER, autoreset=False
    )
    agent = ToolCallDemonstrator(stripped, [made for _, made in played])
    episodes = record(agent, env, range(len(stripped)))
    for (transcript, made), episode in zip(played, episodes, strict=True):
        assert_legal(episode.actions, episode.masks, 2)
        np.testing.assert_array_equal(episode.actions, made.actions)
        writable = [turn.writable for turn in transcript.turns[: len(episode)]]
        assert not episode.actions[~np.array(writable), 0].any()


# Mappings.


@pytest.mark.parametrize("name", MAPPINGS)
def test_builtin_mappings_read(name: str) -> None:
    mapping = tool_mapping(name)
    assert mapping.name == name
    assert {tool.operation for tool in mapping.tools.values()} >= {"write", "read"}


def test_own_mapping_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.yaml"
    path.write_text("tools:\n  jot: {operation: write, content: [note, line]}\nresults: {id: key}\n")
    mapping = tool_mapping(path)
    assert (mapping.name, mapping.ids) == ("notes", ("key",))
    chat = [user("I keep bees"), calls(call("jot", {"line": "bees"})), says("Nice")]
    demonstrations, _ = tool_demonstrations(read(tmp_path, chat), path, encoder=ENCODER)
    assert isinstance(demonstrations, Demonstrations)
    assert demonstrations.card["source"] == "tool-calls:notes"
    assert demonstrations.episodes[0].actions.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the file holds no mapping"),
        ("- 1", ":1: the file holds no mapping"),
        ("tools: {}", ":1: maps no tool"),
        ("tool:\n  x: {}", ":1: the file has the unknown key 'tool'"),
        (
            "tools:\n  a: {operation: write, content: x}\n  b: {operation: erase}",
            ":3: tool b has the unknown operation",
        ),
        ("tools:\n  a: {operation: write, contents: x}", ":2: tool a has the unknown key 'contents'"),
        ("tools:\n  a: {operation: read, content: x}", ":2: tool a has the unknown key 'content'"),
        ("tools:\n  a: {content: x}", ":2: tool a has no operation"),
        ("tools:\n  a: {operation: write}", ":2: tool a names no argument"),
        ("tools:\n  a: {operation: write, content: {x: y}}", ":2: content is not a name"),
        ("tools:\n  a: {operation: write, content: []}", ":2: content is not a name"),
        ("tools:\n  a: write", ":2: tool a holds no mapping"),
        ("tools:\n  a: {operation: say, content: x}\n  a: {operation: say, content: x}", ":3: tools has 'a' twice"),
        ("tools:\n  a: {operation: say, content: x}\nresults: {ids: x}", ":3: results has the unknown key 'ids'"),
        ("tools: [", ": is not valid YAML"),
    ],
)
def test_malformed_mapping_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tools.yaml"
    path.write_text(text)
    with pytest.raises(StmError) as error:
        tool_mapping(path)
    assert f"{path}{message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_mapping_lists_the_builtin_ones() -> None:
    with pytest.raises(StmError, match=r"cannot be read .*letta, mem0, stm-rl"):
        tool_mapping("langmem")
