"""Automatic measures of a text that continues a history. Few, and each says what it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stm_rl.features import WORD, TextEncoder
from stm_rl.lm.engine import ScoringEngine
from stm_rl.rewards.judges import normalized_words
from stm_rl.transcript import Transcript
from stm_rl.worlds.check import judge

MEASURES: Mapping[str, str] = {
    "answer_recall": "share of the answer's words that the text has (0 to 1; turns whose answer is known)",
    "contradiction": "1 if the text contradicts the hidden state of the world (procedural worlds)",
    "stale": "1 if the text names what was true once and is no more (answers of procedural worlds)",
    "grounded_names": "share of the text's names that the history has (0 to 1; texts with names)",
    "rouge_l": "ROUGE-L F1 with the true turn (0 to 1)",
    "relevance": "cosine of the text's embedding with that of the turn before (-1 to 1)",
    "distinct_2": "distinct pairs of words over pairs of words (0 to 1; texts of two words or more)",
    "fit": "log p(text | whole history) per token, nats, by the model that wrote it",
    "true_likelihood": "log p(true turn | what the model saw) in nats",
}
"""Names and meanings, in the order of tables. Less is better of ``contradiction`` and ``stale``, else more is."""

LESS_IS_BETTER = frozenset({"contradiction", "stale"})
_NAME = re.compile(r"(?<![^\W_])[A-Z][\w'-]*")


def answer_recall(text: str, answer: str) -> float:
    """Return the share of the words of ``answer`` that ``text`` has, 0 to 1.

    Words are normalised as for SQuAD. Recall, not F1, since a right answer may be wrapped in a sentence (Adlakha et
    al., 2024, find it agrees best with people's judgement of longer answers).
    """
    said, right = set(normalized_words(text)), normalized_words(answer)
    return sum(word in said for word in right) / len(right) if right else 0.0


def rouge_l(text: str, truth: str) -> float:
    """Return the F1 of the longest common subsequence of words, 0 to 1 (Lin, 2004)."""
    said, right = (WORD.findall(one.lower()) for one in (text, truth))
    longest = [0] * (len(right) + 1)
    for word in said:
        previous = longest
        longest = [0]
        for at, other in enumerate(right):
            longest.append(previous[at] + 1 if word == other else max(previous[at + 1], longest[at]))
    return 2 * longest[-1] / (len(said) + len(right)) if longest[-1] else 0.0


def distinct(text: str, n: int = 2) -> float | None:
    """Return distinct n-grams of words over n-grams (Li et al., 2016), above 0 to 1; None: the text is too short."""
    words = WORD.findall(text.lower())
    grams = list(zip(*(words[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else None


def names_in(text: str) -> set[str]:
    """Return the names in a text, in lower case: capitalised words that do not begin a sentence, and numbers.

    The first word of a sentence has a capital letter anyway. ``I`` is no name.
    """
    found = set()
    for match in _NAME.finditer(text):
        before = text[: match.start()].rstrip(" \"'(“‘")
        if before and before[-1] not in ".!?:…" and not re.fullmatch(r"I('\w+)?", match[0]):
            found.add(match[0].lower().removesuffix("'s"))
    return found | set(re.findall(r"\d+", text))


def grounded_names(text: str, history: Sequence[str]) -> float | None:
    """Return the share of the names in ``text`` that stand in ``history``, 0 to 1; None: it has no names.

    Entity precision as of Nan et al. (2021), with the history as the source.
    """
    names = names_in(text)
    known = {word.lower().removesuffix("'s") for line in history for word in re.findall(r"[\w'-]+", line)}
    return sum(name in known for name in names) / len(names) if names else None


class Measures:
    """Measures texts that stand in place of turns.

    Args:
        engine: Scores texts; the model that wrote them.
        encoder: Embeds texts, for ``relevance``.
    """

    def __init__(self, engine: ScoringEngine, encoder: TextEncoder) -> None:
        self.engine, self.encoder = engine, encoder

    def of_text(self, transcript: Transcript, turn: int, text: str) -> dict[str, float]:
        """Return the measures of one text that need no model.

        Args:
            transcript: The true transcript.
            turn: Index of the turn that the text stands for, at least 1.
            text: What was written.
        """
        history = [str(one) for one in transcript.turns[:turn]]
        true = transcript.turns[turn]
        answer = next((probe.answer for probe in transcript.probes if probe.turn == turn), "")
        found: dict[str, float | None] = {
            "answer_recall": answer_recall(text, answer) if answer else None,
            "grounded_names": grounded_names(text, history),
            "rouge_l": rouge_l(text, true.text),
            "distinct_2": distinct(text),
        }
        if "keys" in transcript.turns[0].meta:  # a procedural world
            verdict = judge(transcript, turn, text)
            found["contradiction"] = float(bool(verdict.wrong or verdict.contradictions))
            found["stale"] = float(bool(verdict.stale)) if verdict.needed else None
        return {name: value for name, value in found.items() if value is not None}

    def relevance(self, texts: Sequence[str], cues: Sequence[str]) -> list[float]:
        """Return the cosine of each text's embedding with that of its cue; 0 for a text without words."""
        vectors = self.encoder([*texts, *cues]).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        said, asked = np.split(vectors, 2)
        return [float(value) for value in (said * asked).sum(1)]

    def fit(self, contexts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """Return log p(text | context) per token, nats: how likely a text is after the whole history.

        As GPTScore (Fu et al., 2024) and BARTScore (Yuan et al., 2021): a model's own likelihood as a judge.
        """
        scores = self.engine.score(contexts, texts)
        counts = self.engine.lm.count_tokens(texts)
        return [float(score) / max(count, 1) for score, count in zip(scores, counts, strict=True)]
