"""The pointer network: one encoder for every turn, one decision for every slot."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PointerNetwork(nn.Module):
    """Scores writing to and reading from each slot, for any number of slots.

    Turn and slots pass through one text encoder. Learned match scores (products of projected slot
    and turn vectors) and the slot features make a token of each slot; self-attention
    lets slots and turn look at each other. Nothing tells slots apart but what they hold, so the
    network is equivariant to their order (Zaheer et al., Deep Sets, 2017) and points at them
    (Vinyals et al., Pointer Networks, 2015).

    Args:
        text_size: Length of an encoded text, ``d``.
        slot_features: Number of features of a slot.
        global_features: Number of global features.
        reads: Reads in one action, ``R``.
        width: Width of the tokens.
        layers: Self-attention layers.
    """

    def __init__(
        self,
        text_size: int,
        slot_features: int,
        global_features: int,
        reads: int,
        width: int = 64,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.shape = {
            "text_size": text_size,
            "slot_features": slot_features,
            "global_features": global_features,
            "reads": reads,
            "width": width,
            "layers": layers,
        }
        self.text = nn.Sequential(nn.Linear(text_size, width), nn.ReLU(), nn.Linear(width, width))
        self.slot_key = nn.Linear(text_size, width, bias=False)
        self.turn_key = nn.Linear(text_size, width, bias=False)
        self.turn_token = nn.Sequential(nn.Linear(2 * width + global_features, width), nn.ReLU())
        self.slot_token = nn.Sequential(nn.Linear(3 * width + slot_features, width), nn.ReLU())
        self.attention = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        heads = 1 + reads
        self.pick = nn.Sequential(nn.Linear(2 * width + slot_features, width), nn.ReLU(), nn.Linear(width, heads))
        self.leave = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, heads))
        self.value = nn.Sequential(nn.Linear(3 * width, width), nn.ReLU(), nn.Linear(width, 1))
        for head in (self.pick, self.leave):
            weight, bias = list(head.parameters())[-2:]
            nn.init.normal_(weight, std=0.01)  # start close to evenly random
            nn.init.zeros_(bias)

    def prefer_leaving(self, bias: float) -> None:
        """Add ``bias`` to the logit of writing nothing."""
        with torch.no_grad():
            list(self.leave.parameters())[-1][0] += bias

    def forward(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return flat action logits, shape ``(n, (1 + R) * (K + 1))``, and values, shape ``(n, 1)``."""
        turn, slots = observation["turn"], observation["slots"]
        features = observation["slot_features"]
        said = self.text(turn)
        head = self.turn_token(torch.cat([said, self.text(observation["window"]), observation["globals"]], -1))
        match = self.slot_key(slots) * self.turn_key(turn).unsqueeze(1)
        spread = said.unsqueeze(1).expand(-1, slots.shape[1], -1)
        body = self.slot_token(torch.cat([self.text(slots), match, spread, features], -1))
        tokens = torch.cat([head.unsqueeze(1), body], 1)
        for layer in self.attention:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        head, body = tokens[:, 0], tokens[:, 1:]
        beside = head.unsqueeze(1).expand_as(body)
        pick = self.pick(torch.cat([body, beside, features], -1))  # (n, K, 1 + R)
        leave = self.leave(head).unsqueeze(1)
        logits = torch.cat([leave, pick], 1).transpose(1, 2).flatten(1)
        value = self.value(torch.cat([head, body.mean(1), body.amax(1)], -1))
        return logits, value
