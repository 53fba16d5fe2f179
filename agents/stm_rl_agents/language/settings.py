"""Settings of finetuning: what is learned from, how, and what is passed on to TRL."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from stm_rl.errors import StmError

SFT, GRPO, PPO, DPO = METHODS = ("sft", "grpo", "ppo", "dpo")
NO_PEFT, LORA = PEFTS = ("none", "lora")
SMALL = {
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 10,
    "save_steps": 50,
}
"""TRL's options for models of a few million parameters."""
DECIDING = {
    **SMALL,
    "per_device_train_batch_size": 64,
    "max_completion_length": 32,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 5,
    "max_steps": 300,
}
"""TRL's options of methods by which the model makes decisions of its own."""
DEFAULTS: dict[str, dict[str, Any]] = {
    SFT: {
        "transcripts": 2000,
        "rows": 48_000,
        "validation_every": 1000,
        "trl": {
            **SMALL,
            "logging_steps": 50,
            "save_steps": 500,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "num_train_epochs": 1,
            "train_sampling_strategy": "group_by_length",
            "lr_scheduler_type": "cosine",
            "warmup_steps": 50,
            "adam_beta2": 0.98,
        },
    },
    GRPO: {
        "transcripts": 2000,
        "rows": 19_200,
        "horizons": [4],
        "validation_every": 100,
        "validation_episodes": 300,
        "trl": {**DECIDING, "per_device_train_batch_size": 256, "num_generations": 4, "learning_rate": 3e-4},
    },
    PPO: {
        "num_envs": 16,
        "validation_every": 75,
        "trl": {**DECIDING, "steps_per_generation": 4},
    },
    DPO: {
        "rows": 500,
        "validation_every": 25,
        "trl": {**SMALL, "per_device_train_batch_size": 32, "learning_rate": 1e-4, "max_steps": 200},
    },
}
"""What each method takes unless told otherwise: right for the embedded model on a CPU."""
RESERVED = {
    "output_dir": "give the run folder with --out",
    "seed": "give it with --seed",
    "resume_from_checkpoint": "go on with a run by --resume",
}
"""Options of TRL that the command line sets itself, with what to do instead."""
FIXED = {PPO: ("num_generations", "scale_rewards", "loss_type")}
"""Options of TRL that belong to a method."""


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How a language model learns to decide.

    Attributes:
        method: ``sft`` (imitation), ``grpo``, ``ppo`` or ``dpo``.
        model: The model that decides: ``tiny-tools``, a Hugging Face id or a folder.
        model_dtype: Torch dtype of its weights.
        peft: ``none``, or ``lora``: train low-rank additions only (Hu et al., 2021).
        lora_rank: Their rank.
        transcripts: Transcripts to learn from; all there are if that is less. Each round of sft has its share. See
            :meth:`chosen`.
        noise: For sft, the expert plays every transcript once for each of these, and with that probability a random
            write takes the place of its own (DART).
        quote: Spell out the text of what is written, instead of saying that it is the turn.
        rows: Rows of the data set: demonstrations for sft, states for grpo and dpo; ppo plays on and has none.
        worth_share: For sft, share of the rows in which the model is also asked, after its decision, what each slot
            will be worth; 0: never. It answers that in training only.
        rounds: For sft, rounds of DAgger: the learner plays, the expert says what it would have done, and all
            of them is learned from (Ross, Gordon and Bagnell, 2011).
        reference: Who plays on after a decision: ``expert``, a heuristic's name or a run folder.
        horizons: Turns that are played, one number for each equal part of training.
        bootstrap: Add what the memory is worth, by hindsight, after the turns that are played: few will then do. What
            the model has put into words of its own counts nothing there.
        gamma: Discount of a turn.
        num_envs: Episodes played together.
        validation_every: Training steps from one validation to the next; 0: none. The model that validation finds best
            is the one that is kept.
        validation_episodes: Episodes of a validation.
        value: For ppo, settings of its value head; see :class:`~stm_rl_agents.language.ppo.PPOSettings`.
        seed: Seeds everything.
        trl: Options of TRL's config class of the method.
    """

    method: str = SFT
    model: str = "tiny-tools"
    model_dtype: str = "float32"
    peft: str = NO_PEFT
    lora_rank: int = 16
    transcripts: int = 300
    noise: tuple[float, ...] = (0.0, 0.15, 0.3)
    quote: bool = False
    rows: int = 32_000
    worth_share: float = 0.5
    rounds: int = 1
    reference: str = "expert"
    horizons: tuple[int, ...] = (8, 16, 32)
    bootstrap: bool = True
    gamma: float = 0.98
    num_envs: int = 64
    validation_every: int = 0
    validation_episodes: int = 100
    value: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    trl: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject settings that cannot be learned with."""
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), hint))
        for name, allowed in (("method", METHODS), ("peft", PEFTS)):
            if getattr(self, name) not in allowed:
                raise StmError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in ("lora_rank", "transcripts", "rows", "num_envs", "validation_episodes"):
            if getattr(self, name) < 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("rounds", "validation_every"):
            if getattr(self, name) < 0:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least 0")
        if not self.noise or not all(0 <= level < 1 for level in self.noise):
            raise StmError(f"noise is {self.noise}; expected at least one probability below 1")
        if not self.horizons or min(self.horizons) < 1:
            raise StmError(f"horizons are {self.horizons}; expected at least one, of at least 1 turn each")
        for name in ("worth_share", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected 0 to 1")

    def chosen(self, available: int) -> range:
        """Return the indices of the transcripts to learn from: the first ones for sft, the last ones otherwise.

        In transcripts that imitation has learned by heart, a model is sure of what it cannot know.

        Args:
            available: Transcripts there are.
        """
        count = min(self.transcripts, available)
        return range(count) if self.method == SFT else range(available - count, available)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.yaml``."""
        return {**asdict(self), "noise": list(self.noise), "horizons": list(self.horizons)}

    def options(self, folder: Path) -> dict[str, Any]:
        """Return the options of TRL's config class, with those that every run sets.

        Args:
            folder: Where TRL keeps its checkpoints.
        """
        options = {"report_to": [], "disable_tqdm": True, "save_total_limit": 2, **self.trl}
        if "activation_checkpointing" in {entry.name for entry in fields(config_class(self.method))}:
            # The newer name of the same, which TRL does not use yet: transformers warns if only the old one is set.
            options.setdefault("activation_checkpointing", options.get("gradient_checkpointing", True))
        return {**options, "seed": self.seed, "output_dir": str(folder)}


def make_settings(method: str, config: Path | None = None, given: Mapping[str, Any] | None = None) -> FinetuneSettings:
    """Return the defaults of a method, changed by a YAML file and by what was given besides.

    The file has the names of :class:`FinetuneSettings`; a part of it named after a method is for that method alone.
    Under ``trl`` are options of TRL's config class of the method.

    Args:
        method: Which.
        config: The file.
        given: Values that win over the file; None: not given.

    Raises:
        StmError: A name or a value is not known; said before anything is loaded.
    """
    if method not in METHODS:
        raise StmError(f"--method is {method!r}; expected one of {', '.join(METHODS)}")
    merged: dict[str, Any] = {"trl": {}}
    for part in (DEFAULTS[method], *_parts(config, method), {k: v for k, v in (given or {}).items() if v is not None}):
        merged = {**merged, **part, "trl": {**merged["trl"], **part.get("trl", {})}}
    merged["trl"] = check_options(method, merged["trl"], str(config or "--config"))
    settings = FinetuneSettings(**{**merged, "method": method})
    _check_value(settings.value, str(config or "--config"))
    return settings


def _check_value(values: Mapping[str, Any], where: str) -> None:
    """Raise StmError unless values are settings of PPO's value head."""
    from stm_rl_agents.language.ppo import PPOSettings

    known = sorted({entry.name for entry in fields(PPOSettings)} - {"gamma"})
    for name in values:
        if name not in known:
            raise StmError(f"value in {where} has {name!r}, which is no setting; {_closest(name, known)}")
    PPOSettings(**values)


def _parts(path: Path | None, method: str) -> list[dict[str, Any]]:
    """Return what a file says for every method, and for one."""
    if path is None:
        return []
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StmError(f"{path} is not valid YAML ({error}); write NAME: VALUE lines") from error
    if not isinstance(found, dict):
        raise StmError(f"{path} holds {found!r:.40}; expected NAME: VALUE lines")
    own = found.get(method) or {}
    known = sorted({entry.name for entry in fields(FinetuneSettings)} - {"method", "seed"})
    for where, part in ((str(path), found), (f"{method} in {path}", own)):
        if not isinstance(part, dict) or not isinstance(part.get("trl", {}), dict):
            raise StmError(f"{where}: expected NAME: VALUE lines, under trl too")
        for name in part:
            if name in RESERVED:
                raise StmError(f"{where} has {name!r}; {RESERVED[name]}")
            if name not in known and not (part is found and name in METHODS):
                raise StmError(f"{where} has {name!r}, which is no setting; {_closest(name, known)}")
    return [{name: value for name, value in found.items() if name not in METHODS}, own]


def config_class(method: str) -> Any:
    """Return TRL's config class of a method."""
    import trl

    return {SFT: trl.SFTConfig, DPO: trl.DPOConfig}.get(method, trl.GRPOConfig)


def check_options(method: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options of TRL's config class of a method, with numbers such as ``1e-3`` read as numbers.

    Raises:
        StmError: One is not known there, or set by the command line.
    """
    kind = config_class(method)
    known = {entry.name: entry.type for entry in fields(kind) if entry.init}
    checked = {}
    for name, value in options.items():
        if name in RESERVED:
            raise StmError(f"trl in {where} has {name!r}; {RESERVED[name]}")
        if name in FIXED.get(method, ()):
            raise StmError(f"trl in {where} has {name!r}, which {method} sets itself; leave it out")
        if name not in known:
            raise StmError(
                f"trl in {where} has {name!r}, which is no option of {kind.__name__}; {_closest(name, sorted(known))}"
            )
        is_number = known[name] is float or float in get_args(known[name])
        checked[name] = _number(name, value) if is_number and isinstance(value, str) else value
    return checked


def _number(name: str, value: str) -> float:
    try:
        return float(value)  # YAML takes 1e-3 for a word
    except ValueError:
        raise StmError(f"{name} is {value!r}; expected a number") from None


def _closest(name: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Return a value as its declared type, or raise StmError."""
    kind = get_origin(hint) or hint
    if kind is float and isinstance(value, str):
        return _number(name, value)
    if kind is tuple:
        element = get_args(hint)[0]
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_typed(name, one, element) for one in values)
    if not isinstance(value, (int, float) if kind is float else kind) or (isinstance(value, bool) and kind is not bool):
        raise StmError(f"{name} is {value!r}; expected a value of type {kind.__name__}")
    return float(value) if kind is float else value
