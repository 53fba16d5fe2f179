"""A small multimodal language model of picture and sound stories: it sees, or hears, what texts refer to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp  # type: ignore[import-untyped]

from stm_rl.features import HashedWords
from stm_rl.lm.engine import ScoringEngine
from stm_rl.media.encoder import Encoder
from stm_rl.media.story import PictureWorld, question, sentence
from stm_rl.media.tags import TAG, MediaStore, without_tags
from stm_rl.transcript import Media

DRAWN = 100
"""Pictures, or sounds, of each object that the classifier is fitted to."""
DOUBT = 0.01
"""Probability that a sentence is about anything at all, whatever the pictures show: keeps likelihoods finite."""
WORD_NATS = 2.0
"""Nats of a word of other sentences where no text model is given."""
UNSURE = "I do not know."
_ASKED = re.compile(re.escape(question("NAME")).replace("NAME", r"(\w+)"))


class PictureClassifier:
    """Says which object a picture or sound is of: linear discriminant analysis on its features.

    Classes are Gaussians with one covariance, fitted to media made for the purpose; their posterior is the
    probability of each object (Fisher, 1936; Hastie, Tibshirani and Friedman, The Elements of Statistical Learning,
    section 4.3).

    Args:
        encoder: Encodes the media.
        world: Makes them.
    """

    def __init__(self, encoder: Encoder, world: PictureWorld) -> None:
        count = len(world.objects)
        media, labels = examples(world, DRAWN)
        drawn = encoder(media).astype(np.float64)
        means = np.stack([drawn[labels == label].mean(0) for label in range(count)])
        within = drawn - means[labels]
        covariance = within.T @ within / (len(drawn) - count)
        # Unit length makes one direction flat; a ridge of a thousandth of the mean variance keeps the inverse finite.
        covariance += np.eye(len(covariance)) * 1e-3 * np.trace(covariance) / len(covariance)
        self.weights = np.linalg.solve(covariance, means.T)
        self.bias = -0.5 * (means.T * self.weights).sum(0)

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return log p(object | medium) in nats, shape ``(n, objects)``, of features of shape ``(n, d)``."""
        return np.asarray(log_softmax(features.astype(np.float64) @ self.weights + self.bias, axis=1))


def examples(world: PictureWorld, each: int) -> tuple[list[Media], NDArray[np.int64]]:
    """Return media that are in no story, ``each`` of every object, and the numbers of the objects."""
    rng = np.random.default_rng(0xF17)
    labels = np.repeat(np.arange(len(world.objects)), each)
    return [world.draw(int(label), rng) for label in labels], labels


@lru_cache(maxsize=8)
def classifier(encoder: Encoder, world: PictureWorld) -> PictureClassifier:
    """Return the classifier for an encoder and a world, fitted at the first call."""
    return PictureClassifier(encoder, world)


class SeeingLM:
    """A language model that sees pictures or hears sounds, as far as stories about objects need one.

    Asked for the sentence that says what somebody bought, it looks at the pictures in the context that this person
    shows, classifies them and gives log p(object | pictures); without any, every object is equally likely. Sounds are
    treated alike. All other sentences cost what a text model says, which sees no tags, or, without one, the same
    whatever the context. It stands for a vision-language or audio-language model: binding names to media is built in,
    telling objects apart is learned.

    Args:
        world: Whose stories it reads.
        store: Knows the pictures or sounds.
        text: The model of other sentences.
    """

    def __init__(self, world: PictureWorld, store: MediaStore, text: ScoringEngine | None = None) -> None:
        self.world, self.store, self.text = world, store, text
        self.id = f"seeing-{store.id}" + (f"-{text.lm_name}" if text else "")
        self.max_tokens = text.lm.max_tokens if text else 4096
        self._classify = classifier(store.encoders[world.medium], world)
        self._targets = {sentence(thing): number for number, thing in enumerate(world.objects)}
        self._embed = HashedWords(64)

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats, shape ``(n,)``."""
        scores = np.zeros(len(targets))
        other = []
        for row, (context, target) in enumerate(zip(contexts, targets, strict=True)):
            thing = self._targets.get(target.strip())
            if thing is None:
                other.append(row)
            else:
                scores[row] = self.objects(context)[thing]
        if other and self.text:
            plain = [without_tags(contexts[row]) for row in other]
            scores[other] = self.text.score(plain, [without_tags(targets[row]) for row in other])
        else:
            scores[other] = [-WORD_NATS * len(without_tags(targets[row]).split()) for row in other]
        return scores

    def objects(self, context: str) -> NDArray[np.float64]:
        """Return log p(object | context) in nats, shape ``(objects,)``, for whoever is asked about last."""
        count = len(self.world.objects)
        tags = self._shown(context)
        if not tags:
            return np.full(count, -np.log(count))
        seen = self._classify(np.stack(self.store.features(tags)))
        seen = logsumexp(seen, axis=0) - np.log(len(tags))
        return np.asarray(np.logaddexp(seen + np.log1p(-DOUBT), np.log(DOUBT / count)))

    def _shown(self, context: str) -> list[str]:
        """Return the tags of what was shown, or let hear, by whoever is asked about last."""
        asked = _ASKED.findall(context)
        if not asked:
            return []
        lines = [line for line in context.splitlines() if line.removeprefix("> ").startswith(f"{asked[-1]}: ")]
        return [match[0] for line in lines for match in TAG.finditer(line) if match[1] == self.world.medium]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, which sees no pictures, shape ``(n, d)``."""
        plain = [without_tags(text) for text in texts]
        return self.text.lm.embed(plain) if self.text else self._embed(plain)

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Say what was bought, if a picture tells."""
        return [
            f" {sentence(self.world.objects[int(self.objects(context).argmax())])}"
            if self._shown(context)
            else f" {UNSURE}"
            for context in contexts
        ]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has: those of the text model, or else words."""
        plain = [without_tags(text) for text in texts]
        return self.text.lm.count_tokens(plain) if self.text else [len(text.split()) for text in plain]
