"""What all tests share: small language models, the data folder, and the settings of torch and hypothesis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import WordLM
from hypothesis import HealthCheck, settings

# Deadlines and the speed check measure how busy the machine is, not the code.
settings.register_profile(
    "stm-rl",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("stm-rl")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may download a model


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Keep torch on one thread: two are many times slower when the other core is busy."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def scores_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the scores of commands out of the user's cache."""
    os.environ["STM_RL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real transcripts; skip the test where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STM_RL_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no folder of real transcripts at {folder}; set STM_RL_DATA to one")
    return folder


@pytest.fixture
def lm() -> WordLM:
    """Return a language model that needs no weights."""
    return WordLM()


CORPUS = [
    "user: I'm meeting Anna at the harbor on Friday.",
    "assistant: Noted. Where did I put the kite? You said the harbor.",
    "> the kite is in the cupboard, Anna will wait for me at the station",
]


def save_tokenizer(folder: Path, special: Sequence[str], **roles: str) -> Any:
    """Save a small byte-level BPE tokenizer with the ``special`` tokens; return it.

    If it has a token to begin texts with, it puts it in front of them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if start := roles.get("bos_token"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="session")
def rotary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random Llama-type model: rotary positions, tokens to begin and to pad."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("rotary")
    tokenizer = save_tokenizer(folder, ("<s>", "</s>", "<pad>"), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=96,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def absolute_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random GPT-2-type model: absolute positions, no token to begin or to pad."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("absolute")
    tokenizer = save_tokenizer(folder, ("<|end|>",), eos_token="<|end|>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=96,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
