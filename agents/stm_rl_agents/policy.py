"""The slot policy: the pointer network as a stable-baselines3 policy and as an agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from stm_rl.errors import StmError
from stm_rl.files import saved, write_json, write_tensors
from stm_rl_agents.base import Actions, Agent, Masks, reads_of
from stm_rl_agents.network import PointerNetwork
from stm_rl_envs.vector import MemoryVectorEnv
from stm_rl_envs.view import Observation

FORMAT = "stm-rl/slot-policy-1"


class PointerPolicy(MaskableActorCriticPolicy):
    """:class:`~stm_rl_agents.network.PointerNetwork` in the shape MaskablePPO trains."""

    network: PointerNetwork

    def __init__(self, *args: Any, width: int = 64, layers: int = 1, **kwargs: Any) -> None:
        self._shape = {"width": width, "layers": layers}
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        spaces = self.observation_space.spaces  # type: ignore[attr-defined]
        size = spaces["slots"].shape[1]
        self.network = PointerNetwork(
            text_size=size,
            slot_features=spaces["slot_features"].shape[1],
            global_features=spaces["globals"].shape[0],
            reads=len(self.action_space.nvec) - 1,  # type: ignore[attr-defined]
            **self._shape,
        )
        options: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **options)

    def _distribution(
        self, observation: dict[str, Tensor], masks: NDArray[Any] | None
    ) -> tuple[MaskableDistribution, Tensor]:
        logits, values = self.network(observation)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        if masks is not None:
            distribution.apply_masking(masks)
        return distribution, values

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: NDArray[Any] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values and log-probabilities."""
        distribution, values = self._distribution(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities and entropies of given actions."""
        distribution, values = self._distribution(obs, action_masks)  # type: ignore[arg-type]
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any, action_masks: NDArray[Any] | None = None) -> Any:
        """Return the distribution over actions."""
        return self._distribution(obs, action_masks)[0]

    def predict_values(self, obs: Any) -> Tensor:
        """Return the value of observations."""
        return torch.as_tensor(self.network(obs)[1])


class PolicyAgent(Agent):
    """A trained slot policy; needs neither stable-baselines3 nor an environment to act.

    Args:
        network: The pointer network.
        card: What it was trained on and how; kept beside the weights.
        name: Name in tables.
        seed: Seeds actions that are drawn.
    """

    def __init__(
        self, network: PointerNetwork, card: Mapping[str, Any] | None = None, name: str = "ppo", seed: int = 0
    ) -> None:
        self.network = network.eval()
        self.card = dict(card or {})
        self.name = name
        self.generator = torch.Generator().manual_seed(seed)

    def start(self, env: MemoryVectorEnv) -> None:
        """Check that the environment encodes texts as in training.

        Raises:
            StmError: It does not.
        """
        trained, here = self.card.get("encoder"), env.episodes.encoder.id
        if trained is not None and trained != here:
            raise StmError(
                f"the policy was trained on texts encoded by {trained} but the environment uses {here}; "
                "make it with the encoder of training (the default one, unless you gave another)"
            )

    def check_fits(self, env: MemoryVectorEnv) -> None:
        """Check that the policy can act in an environment, before anything is played.

        Raises:
            StmError: Reads, encoder, or what is said of slots and turns is not as in training.
        """
        self._check_reads(env.episodes.settings.reads)
        self.start(env)
        spaces = env.single_observation_space
        self._check_text_size(spaces["turn"].shape[-1])  # type: ignore[index]
        shape = self.network.shape
        trained = (shape["slot_features"], shape["global_features"])
        here = (spaces["slot_features"].shape[-1], spaces["globals"].shape[-1])  # type: ignore[index]
        if trained != here:
            raise StmError(
                f"the policy reads {trained[0]} features of a slot and {trained[1]} of the episode but the environment "
                f"gives {here[0]} and {here[1]}; use a policy trained with this version of stm-rl"
            )

    def _check_reads(self, reads: int) -> None:
        trained = self.network.shape["reads"]
        if reads != trained:
            raise StmError(
                f"the policy was trained with {trained} reads a step but the environment has {reads}; "
                f"make it with reads={trained} (slots and window may differ, reads may not)"
            )

    def _check_text_size(self, size: int) -> None:
        trained = self.network.shape["text_size"]
        if size != trained:
            raise StmError(
                f"the policy reads texts of {trained} numbers but the environment gives {size}; "
                "use the encoder it was trained with"
            )

    def act_batch(self, observation: Observation, action_masks: Masks, deterministic: bool) -> Actions:
        """Return the policy's actions."""
        logits = self._logits(observation, action_masks)
        if not deterministic:
            uniform = torch.rand(logits.shape, generator=self.generator).clamp_min(1e-20)
            logits = logits - torch.log(-torch.log(uniform))  # Gumbel-max draw
        return np.asarray(logits.argmax(-1).numpy(), np.int64)

    def act_with_probabilities(
        self, observation: Observation, action_masks: Masks
    ) -> tuple[Actions, NDArray[np.float32]]:
        """Return the likeliest actions, and how likely each choice was.

        Returns:
            Actions as :meth:`act_batch` gives them, and probabilities of shape ``(n, 1 + R, K + 1)``: of the write,
            then of each read; 0 first, for none.
        """
        logits = self._logits(observation, action_masks)
        return np.asarray(logits.argmax(-1).numpy(), np.int64), logits.softmax(-1).numpy()

    def _logits(self, observation: Observation, action_masks: Masks) -> Tensor:
        """Return the logits of actions, shape ``(n, 1 + R, K + 1)``; those of illegal ones are -infinity."""
        reads = reads_of(observation, action_masks)
        self._check_reads(reads)
        self._check_text_size(observation["turn"].shape[-1])
        with torch.inference_mode():
            logits, _ = self.network({name: torch.as_tensor(value) for name, value in observation.items()})
        shape = (len(action_masks), 1 + reads, -1)
        legal: Tensor = logits.masked_fill(~torch.as_tensor(action_masks), -torch.inf)
        return legal.reshape(shape)

    def save(self, folder: str | Path) -> None:
        """Write ``policy.safetensors`` and ``policy.json`` into ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        network = self.network
        write_tensors(folder / "policy.safetensors", network.state_dict())
        write_json(folder / "policy.json", {"format": FORMAT, "name": self.name, "network": network.shape, **self.card})

    @classmethod
    def load(cls, folder: str | Path, name: str | None = None) -> PolicyAgent:
        """Read what :meth:`save` wrote.

        Raises:
            StmError: The folder holds no policy, or one of another format.
        """
        folder = Path(folder)
        advice = "expected policy.json and policy.safetensors as `stm-rl train` writes them"
        with saved(folder, "policy", "policy", advice) as (card, weights):
            found = card.pop("format", None)
            if found != FORMAT:
                raise StmError(f"{folder / 'policy.json'} has format {found!r}; expected {FORMAT!r}")
            network = PointerNetwork(**card.pop("network"))
            network.load_state_dict(weights)
            saved_name = card.pop("name")
        return cls(network, card, name or saved_name)
