"""Causal language models that vLLM runs in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stm_rl.errors import StmError
from stm_rl.lm.checks import check_finite, check_pairs, room_for
from stm_rl.lm.loading import PROBLEMS, source_of
from stm_rl.lm.tokens import PairTokenizer


class VLLM:
    """A causal language model in vLLM, for many long texts on a GPU.

    Texts are the same tokens as in :class:`stm_rl.lm.CausalLM`, and so is what counts as the target. vLLM keeps the
    keys and values of common beginnings for ``generate``; for scores it computes every token, since it does not keep
    log-likelihoods. It writes one token with each score, which is left out here.

    The weights are vLLM's and not known here, so scores on disk are kept by the model's name and dtype alone: clear
    them when a folder gets other weights.

    Attributes:
        id: ``vllm:`` and the name it was loaded from.
        max_tokens: Most tokens of a context and its target together.
        cache_key: What scores depend on besides the texts.
    """

    def __init__(self, llm: Any, id: str, cache_key: str = "") -> None:
        """Wrap a ``vllm.LLM``."""
        self.llm, self.id, self.cache_key = llm, id, cache_key
        self.text = PairTokenizer(llm.get_tokenizer(), id, llm.llm_engine.model_config.max_model_len - 1)
        self.max_tokens = self.text.max_tokens

    @classmethod
    def load(cls, name: str | Path, dtype: str = "auto", **options: Any) -> VLLM:
        """Load a model.

        Only safetensors weights are read and no code of the model's repository is run.

        Args:
            name: ``tiny`` (the embedded model), a folder, or a Hub id such as ``Qwen/Qwen3-0.6B``.
            dtype: ``auto`` (that of the weights, but half precision for float32 ones), ``bfloat16``, ``float16`` or
                ``float32``.
            options: Other arguments of ``vllm.LLM``, such as ``gpu_memory_utilization``, ``max_model_len`` or
                ``tensor_parallel_size``.

        Raises:
            StmError: vLLM is not installed, or cannot load the model.
        """
        try:
            from vllm import LLM
        except ImportError as error:
            raise StmError("vllm is not installed; run: pip install 'stm-rl[vllm]'") from error
        chosen = {"enable_prefix_caching": True, "load_format": "safetensors"} | options
        try:
            llm = LLM(model=str(source_of(name)), dtype=dtype, trust_remote_code=False, **chosen)
        except (*PROBLEMS, TypeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StmError(
                f"vLLM cannot load the language model {str(name)!r} ({reason}); it needs a GPU, a model it supports, "
                "and free memory for both weights and keys and values"
            ) from error
        return cls(llm, f"vllm:{name}", f"vllm {dtype}")

    @property
    def truncated(self) -> int:
        """How many contexts have lost their oldest tokens so far because they did not fit."""
        return self.text.truncated

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(target | context) in nats; see :class:`stm_rl.lm.protocol.LanguageModel`."""
        check_pairs(contexts, targets)
        pairs = self.text.encode(contexts, targets)
        outputs = self._run([ids for ids, _ in pairs], max_tokens=1, prompt_logprobs=0, detokenize=False)
        scores = np.zeros(len(pairs))
        for row, ((ids, count), output) in enumerate(zip(pairs, outputs, strict=True)):
            found = output.prompt_logprobs
            places = range(len(ids) - count, len(ids))
            scores[row] = sum(found[place][ids[place]].logprob for place in places)
        check_finite(scores, targets, self.id)
        return scores

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Raise an error: vLLM embeds with models made for that only."""
        raise StmError(f"{self.id} gives no embeddings; take another encoder, such as the default")

    def generate(self, contexts: Sequence[str], max_new_tokens: int = 40) -> list[str]:
        """Continue each context greedily until the end of its line or ``max_new_tokens`` tokens."""
        room = room_for(max_new_tokens, self.max_tokens, self.id)
        outputs = self._run(self.text.texts(contexts, room), max_tokens=max_new_tokens, stop=["\n"])
        return [output.outputs[0].text.split("\n")[0].strip() for output in outputs]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""
        return self.text.count(texts)

    def _run(self, prompts: Sequence[list[int]], **limits: Any) -> list[Any]:
        """Return vLLM's outputs for prompts, in their order."""
        if not prompts:
            return []
        from vllm import SamplingParams

        asked = [{"prompt_token_ids": ids} for ids in prompts]
        return list(self.llm.generate(asked, SamplingParams(temperature=0, **limits), use_tqdm=False))
