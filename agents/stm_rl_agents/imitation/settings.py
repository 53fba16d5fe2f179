"""Settings of imitation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stm_rl.errors import StmError
from stm_rl_agents.imitation.losses import CROSS_ENTROPY, LOSSES, REGRET

BC, DAGGER = METHODS = ("bc", "dagger")


@dataclass(frozen=True, slots=True)
class ImitationSettings:
    """How a policy is cloned.

    Attributes:
        method: ``bc``: behaviour cloning on what the expert saw. ``dagger``: then the learner plays, the expert says
            what it would have done in each state the learner got into, and the learner is fitted to all of it (Ross,
            Gordon and Bagnell, 2011).
        loss: Loss of behaviour cloning, ``cross-entropy`` or ``regret``; see :mod:`stm_rl_agents.imitation.losses`.
        round_loss: Loss of the rounds of DAgger.
        transcripts: Transcripts to learn from; all there are if that is less. A tenth of them, at most 50, is held out.
        round_transcripts: Most transcripts played in a pass of the expert or a round of the learner; if there are more,
            they take turns.
        expert_noise: The expert plays every transcript once for each of these, and with that probability a random write
            takes the place of its own; see :func:`~stm_rl_agents.imitation.lessons.collect`.
        epochs: Most passes of behaviour cloning.
        rounds: Rounds of DAgger.
        round_epochs: Most passes in a round.
        patience: Passes without progress on held-out episodes after which a fit stops.
        batch_size: Lessons in a minibatch.
        lr: Learning rate of behaviour cloning; each fit falls linearly to a tenth of its own.
        round_lr: Learning rate of a round of DAgger.
        weight_decay: Weight decay (AdamW).
        dropout: Share of the numbers of a text that are blanked out in training.
        entropy: Weight of the entropy bonus.
        gamma: Discount of future gains in the labels.
        width: Width of the network.
        layers: Self-attention layers of the network.
        validation_episodes: Episodes of a validation.
        num_envs: Environments stepped together.
        seed: Seeds everything.
    """

    method: str = DAGGER
    loss: str = CROSS_ENTROPY
    round_loss: str = REGRET
    transcripts: int = 500
    round_transcripts: int = 500
    expert_noise: tuple[float, ...] = (0.1, 0.2, 0.3)
    epochs: int = 10
    rounds: int = 3
    round_epochs: int = 6
    patience: int = 3
    batch_size: int = 256
    lr: float = 1e-3
    round_lr: float = 7e-4
    weight_decay: float = 0.01
    dropout: float = 0.2
    entropy: float = 0.02
    gamma: float = 0.98
    width: int = 64
    layers: int = 1
    validation_episodes: int = 100
    num_envs: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings that cannot be learned with."""
        for name, allowed in (("method", METHODS), ("loss", LOSSES), ("round_loss", LOSSES)):
            if getattr(self, name) not in allowed:
                raise StmError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        for name in (
            "round_transcripts",
            "epochs",
            "rounds",
            "round_epochs",
            "patience",
            "batch_size",
            "validation_episodes",
            "num_envs",
        ):
            if getattr(self, name) < 1:
                raise StmError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.transcripts < 2:
            raise StmError(f"transcripts is {self.transcripts}; expected at least 2: one to learn from, one held out")
        object.__setattr__(self, "expert_noise", tuple(self.expert_noise))
        if not self.expert_noise or not all(0 <= level < 1 for level in self.expert_noise):
            raise StmError(f"expert_noise is {self.expert_noise}; expected at least one probability below 1")
        if not 0 <= self.dropout < 1:
            raise StmError(f"dropout is {self.dropout}; expected at least 0 and less than 1")
        if not 0 <= self.gamma <= 1:
            raise StmError(f"gamma is {self.gamma}; expected 0 to 1")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.yaml``."""
        return {**asdict(self), "expert_noise": list(self.expert_noise)}
