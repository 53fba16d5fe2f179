"""Language models behind a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, OpenAI and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from stm_rl.errors import StmError
from stm_rl.lm.checks import check_finite, check_pairs, room_for
from stm_rl.lm.echo import target_tokens
from stm_rl.lm.loading import PROBLEMS, source_of
from stm_rl.lm.server import Server
from stm_rl.lm.tokens import PairTokenizer

UNSTATED_LENGTH = 4096
"""Context length of models whose server states none."""
BYTES_PER_TOKEN = 3
"""English has about 4 bytes a token and most other text at least 3, so counts are rather too high."""


class RemoteLM:
    """A language model behind an OpenAI-compatible server.

    Scores come from ``/completions`` with ``echo`` and ``logprobs``, which vLLM, SGLang, llama-cpp-python and others
    answer. Text comes from ``/completions`` or, where the server has none, from ``/chat/completions`` with the context
    as the user's message. For retries, the key and errors see :class:`stm_rl.lm.server.Server`.

    With ``tokenizer``, texts are sent as token ids and contexts too long are cut as
    :class:`stm_rl.lm.CausalLM` cuts them. Without, the target's tokens are found by their texts (see
    :func:`stm_rl.lm.echo.target_tokens`), a text is taken to have one token for each 3 bytes, and a context that is
    too long by the server's count is an error.

    The server's weights are not known, so scores on disk are kept by the model's name and the server's address alone:
    clear them when another model is served under the same name.

    Attributes:
        id: ``openai:MODEL@HOST``.
        max_tokens: Most tokens of a context and its target together.
    """

    def __init__(
        self,
        model: str,
        url: str | None = None,
        *,
        max_tokens: int | None = None,
        tokenizer: str | Path | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        concurrency: int = 8,
    ) -> None:
        """Connect to a server.

        Args:
            model: The model's name there.
            url: The server's address up to ``/v1``; by default ``$OPENAI_BASE_URL`` or else OpenAI's. The key is
                ``$OPENAI_API_KEY``; a server at another address may need none.
            max_tokens: Most tokens of a context and its target together; by default what the server states, less one
                token that servers write with every score, or else 4,096.
            tokenizer: The model's tokenizer: a folder or a Hub id. The server must take token ids, as vLLM does.
            timeout: Seconds to wait for an answer.
            retries: How often a request is sent again.
            concurrency: Most requests under way at once.

        Raises:
            StmError: The package openai is not installed, there is no key, an argument is not valid, or the server
                does not answer.
        """
        self._server = Server(model, url, timeout, retries, concurrency)
        self.id = self._server.id
        try:
            stated = None if max_tokens else self._server.stated_length()
            self.max_tokens = max_tokens or (stated - 1 if stated else UNSTATED_LENGTH)
            self._text = self._load_tokenizer(tokenizer) if tokenizer else None
        except BaseException:
            self.close()
            raise
        if self._text:
            self.max_tokens = self._text.max_tokens

    @classmethod
    def load(cls, name: str, **options: Any) -> RemoteLM:
        """Connect to ``MODEL`` or ``MODEL@http://host:port/v1``; for the options see the constructor."""
        model, at, url = name.partition("@")
        if not model or (at and not url):
            raise StmError(f"the remote model is {name!r}; expected MODEL or MODEL@http://host:port/v1")
        return cls(model, url or None, **options)

    @property
    def truncated(self) -> int:
        """How many contexts have lost their oldest tokens so far because they did not fit."""
        return self._text.truncated if self._text else 0

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats; see :class:`stm_rl.lm.protocol.LanguageModel`.

        A server scores no token that has nothing in front of it. Without ``tokenizer``, a target that begins the text
        is scored after a line break, unless the server itself puts a special token in front of texts.

        Raises:
            StmError: The server does not answer, or gives no log-likelihoods of the texts it is sent.
        """
        check_pairs(contexts, targets)
        for target in targets:
            if not target.strip():
                raise StmError(f"the target {target[:60]!r} has no tokens; expected some text to score")
        if self._text:
            scores = self._score_ids(self._text.encode(contexts, targets))
        else:
            scores = self._score_texts(list(zip(contexts, targets, strict=True)))
        result = np.array(scores, np.float64)
        check_finite(result, targets, self.id, "check the server's model")
        return result

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the server's embeddings, shape ``(n, d)``.

        Raises:
            StmError: The server has none.
        """
        return self._server.embed(texts)

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Continue each context greedily until the end of its line or ``max_new_tokens`` tokens."""
        room = room_for(max_new_tokens, self.max_tokens, self.id)
        prompts = self._text.texts(contexts, room) if self._text else contexts
        return self._server.write(contexts, prompts, max_new_tokens)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has; without ``tokenizer``, a third of its bytes, rounded up."""
        if self._text:
            return self._text.count(texts)
        return [-(-len(text.encode()) // BYTES_PER_TOKEN) for text in texts]

    def close(self) -> None:
        """Close the connections to the server."""
        self._server.close()

    def __enter__(self) -> RemoteLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteLM({self.id!r})"

    def _load_tokenizer(self, name: str | Path) -> PairTokenizer:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source_of(name))
        except PROBLEMS as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StmError(f"cannot load the tokenizer {str(name)!r} ({reason}); give a folder or a Hub id") from error
        return PairTokenizer(tokenizer, self.id, self.max_tokens)

    def _score_ids(self, pairs: Sequence[tuple[list[int], int]]) -> list[float]:
        scores = []
        for (ids, count), (tokens, values) in zip(pairs, self._server.echo([ids for ids, _ in pairs]), strict=True):
            if len(tokens) - len(ids) not in (0, 1):  # the server may have written one
                raise self._no_scores(f"{len(tokens)} tokens for {len(ids)}")
            scores.append(self._sum(values[len(ids) - count : len(ids)]))
        return scores

    def _score_texts(self, pairs: Sequence[tuple[str, str]], alone: bool = True) -> list[float]:
        scores = [0.0] * len(pairs)
        again = []
        echoes = self._server.echo([context + target for context, target in pairs])
        for number, ((context, target), (tokens, values)) in enumerate(zip(pairs, echoes, strict=True)):
            found = target_tokens(tokens, context, target)
            if found is None:
                raise self._no_scores(f"{len(tokens)} tokens that are not those of {(context + target)[-60:]!r}")
            if alone and values[found.start] is None:
                again.append(number)
            else:
                scores[number] = self._sum(values[found.start : found.stop])
        if again:
            after = [(f"\n{pairs[number][0]}", pairs[number][1]) for number in again]
            for number, score in zip(again, self._score_texts(after, alone=False), strict=True):
                scores[number] = score
        return scores

    def _sum(self, values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            raise self._no_scores(f"{len(known)} for {len(values)} tokens")
        return float(sum(known))

    def _no_scores(self, what: str) -> StmError:
        return StmError(
            f"{self.id} gave no log-likelihoods of the text it was sent ({what}); scores need a server that answers "
            "echo with logprobs, such as vLLM, and if it shows its tokens in another form than the text, "
            "RemoteLM(..., tokenizer=...); with any other server take mode=generate and rewards that judge text"
        )
