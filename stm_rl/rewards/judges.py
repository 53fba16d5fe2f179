"""Terms that judge text the model wrote, each against the text it would have written without memory."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stm_rl.encoders import sentence_encoder
from stm_rl.errors import StmError
from stm_rl.features import TextEncoder
from stm_rl.rewards.base import FloatArray, Judged, Step
from stm_rl.worlds.check import judge


class Consistency(Judged):
    """Right entities: the share of the facts a turn depends on that the text gets right, by the world's hidden state.

    Where the true turn depends on no fact, 0. Needs transcripts of a procedural world.
    """

    def judge(self, texts: Sequence[str], steps: Sequence[Step]) -> FloatArray:
        """Return the shares, 0 to 1."""
        verdicts = [judge(step.transcript, step.turn + 1, text) for text, step in zip(texts, steps, strict=True)]
        return np.array([verdict.right for verdict in verdicts], np.float64)


class Contradiction(Judged):
    """Minus 1 for a text that contradicts the world's hidden state.

    It does if it names a wrong entity where the true turn names the right one (another place, a person who no longer
    has the thing), or says of anything known that it is otherwise. Needs transcripts of a procedural world.
    """

    def judge(self, texts: Sequence[str], steps: Sequence[Step]) -> FloatArray:
        """Return -1 for each text that contradicts, else 0."""
        verdicts = [judge(step.transcript, step.turn + 1, text) for text, step in zip(texts, steps, strict=True)]
        return np.array([-float(bool(verdict.wrong or verdict.contradictions)) for verdict in verdicts])


class Similarity(Judged):
    """Cosine of the text's embedding with that of the text that really comes next, -1 to 1.

    Args:
        model: ``tiny`` (the embedded model), ``minilm`` (needs the extra of that name), or a causal model of the
            Hugging Face Hub or a folder.
    """

    def __init__(self, model: str = "tiny") -> None:
        self.encoder: TextEncoder = sentence_encoder(model)

    def judge(self, texts: Sequence[str], steps: Sequence[Step]) -> FloatArray:
        """Return the cosines; 0 for a text without words."""
        vectors = self.encoder([*texts, *(step.truth for step in steps)]).astype(np.float64)
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        said, true = np.split(vectors / lengths, 2)
        return np.asarray((said * true).sum(1))


class NLI(Judged):
    """Whether the text follows from what should be known, by a cross-encoder for natural-language inference.

    p(entailment) - p(contradiction) of the text given a premise, -1 to 1.

    Args:
        model: A sequence-classification model of the Hugging Face Hub, such as ``cross-encoder/nli-deberta-v3-small``,
            or a folder; its ``id2label`` must name entailment and contradiction. Only safetensors weights are read.
        premise: ``truth``, the text that really comes next, or ``evidence``, the turns it depends on (where none
            are known, the text is not judged).
        device: A torch device.
        batch_size: Pairs in one forward pass.
    """

    def __init__(self, model: str = "", premise: str = "truth", device: str = "cpu", batch_size: int = 32) -> None:
        if not model:
            raise StmError(
                "the reward term nli needs a model: nli[model=cross-encoder/nli-deberta-v3-small] or a folder"
            )
        if premise not in ("truth", "evidence"):
            raise StmError(f"premise is {premise!r}; expected truth or evidence")
        self.premise, self.batch_size = premise, batch_size
        self.model, self.tokenizer = _load_classifier(model, device)
        labels = {str(name).lower(): int(index) for index, name in self.model.config.id2label.items()}
        found = [
            [index for name, index in labels.items() if name.startswith(part)] for part in ("entail", "contradict")
        ]
        if not all(found):
            raise StmError(
                f"model {model!r} has the labels {', '.join(labels)}; expected entailment and contradiction among them "
                "(id2label in its config.json)"
            )
        self._entailment, self._contradiction = found[0][0], found[1][0]

    def judge(self, texts: Sequence[str], steps: Sequence[Step]) -> FloatArray:
        """Return p(entailment) - p(contradiction) of each text."""
        pairs = [(self._premise(step), text) for text, step in zip(texts, steps, strict=True)]
        rows = [row for row, (premise, text) in enumerate(pairs) if premise and text.strip()]
        result = np.zeros(len(pairs))
        for first in range(0, len(rows), self.batch_size):
            chosen = rows[first : first + self.batch_size]
            result[chosen] = self._classify([pairs[row] for row in chosen])
        return result

    def _premise(self, step: Step) -> str:
        if self.premise == "truth":
            return step.truth
        turns = step.transcript.turns
        return " ".join(turns[turn].text for turn in step.probe.evidence) if step.probe else ""

    def _classify(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        premises, texts = map(list, zip(*pairs, strict=True))
        batch = self.tokenizer(premises, texts, return_tensors="pt", padding=True, truncation="longest_first")
        with torch.inference_mode():
            probabilities = self.model(**batch.to(self.model.device)).logits.float().softmax(-1)
        scores = probabilities[:, self._entailment] - probabilities[:, self._contradiction]
        return np.asarray(scores.cpu().numpy(), np.float64)


def _load_classifier(model: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        classifier = AutoModelForSequenceClassification.from_pretrained(model, use_safetensors=True)
        return classifier.to(device).eval(), tokenizer
    except (OSError, ValueError, RuntimeError) as error:
        raise StmError(
            f"cannot load the classifier {model!r} ({str(error).strip().splitlines()[0]}); give a folder with "
            "config.json, tokenizer.json and model.safetensors, or a Hugging Face id"
        ) from error


class AnswerF1(Judged):
    """Overlap of the words of a written answer with those of the right one, 0 to 1; 0 where no answer is known.

    F1 of the words after lower-casing and dropping punctuation and articles, as for SQuAD (Rajpurkar et al., 2016).

    Args:
        exact: Pay 1 only if all words agree, and 0 otherwise.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact

    def judge(self, texts: Sequence[str], steps: Sequence[Step]) -> FloatArray:
        """Return the overlaps."""
        score = exact_match if self.exact else answer_f1
        values = [
            score(text, step.probe.answer) if step.probe else 0.0 for text, step in zip(texts, steps, strict=True)
        ]
        return np.array(values, np.float64)


def normalized_words(text: str) -> list[str]:
    """Return the lower-case words of a text without punctuation and articles."""
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def answer_f1(text: str, answer: str) -> float:
    """Return the F1 of the words of ``text`` and ``answer``, 0 to 1."""
    said, right = normalized_words(text), normalized_words(answer)
    shared = sum((Counter(said) & Counter(right)).values())
    return 2 * shared / (len(said) + len(right)) if shared else 0.0


def exact_match(text: str, answer: str) -> float:
    """Return 1 if the words of ``text`` and ``answer`` are the same in the same order, else 0."""
    said, right = normalized_words(text), normalized_words(answer)
    return float(bool(right) and said == right)
