"""Entities of the procedural worlds: names, places and things, split into train and held-out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pool:
    """Interchangeable entities; every one is equally likely.

    Attributes:
        train: Entities of training episodes.
        heldout: Entities that no training episode contains.
    """

    train: tuple[str, ...]
    heldout: tuple[str, ...]

    def of(self, split: str) -> tuple[str, ...]:
        """Return the entities of ``split`` (``train`` or ``heldout``)."""
        return self.heldout if split == "heldout" else self.train


def _pool(train: str, heldout: str) -> Pool:
    return Pool(tuple(train.split()), tuple(heldout.split()))


PERSON = _pool(
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Karen Leo Maria Noah Olga Peter Rosa Sam Tina "
    "Victor Wendy Yusuf Zoe Adam Bella Carl Diana Erik Fiona George Hanna Ivan",
    "Julia Kevin Laura Marco Nina Oscar Paula Simon Tara Walter Mona Hugo",
)
PLACE = _pool(
    "harbor mill bakery library station museum market garden theater school bridge chapel airport castle "
    "stadium gallery pharmacy lighthouse courthouse cinema farm park zoo bank",
    "aquarium barn temple casino hospital fountain tower hotel monument brewery orchard quarry",
)
ITEM = _pool(
    "kite scarf lamp drum guitar camera puzzle necklace teapot backpack telescope blanket candle clock novel "
    "bracelet skateboard vase poster wallet notebook perfume helmet basket",
    "violin mirror hammock tent globe compass quilt chessboard keyboard jacket saddle mug",
)
DISH = _pool(
    "soup pasta salad curry pizza risotto burger lasagna omelette stew salmon steak dumplings noodles pancakes "
    "chili sandwich trout paella ramen falafel gnocchi lobster meatballs",
    "waffles sushi goulash quiche shrimp casserole burrito kebab porridge tofu chowder mussels",
)
SPOT = _pool(
    "drawer cupboard garage attic cellar kitchen hallway closet shed bedroom office car mailbox suitcase "
    "freezer balcony pantry toolbox bookshelf bathroom locker trunk greenhouse fireplace",
    "wardrobe basement cabin stable sunroom safe veranda dresser crate cooler fridge chest",
)
THING = _pool(
    "passport ladder charger receipt map drill flashlight hammer stapler trumpet tripod bicycle remote "
    "checkbook hose kettle broom manual contract stroller",
    "wrench binder racket envelope laptop thermos canoe mask",
)
EVENT = _pool(
    "workshop interview lecture audition exam seminar rehearsal meeting reception debate screening auction "
    "training hearing concert course",
    "banquet inspection conference tasting ceremony briefing",
)
NUMBER = Pool(tuple(str(n) for n in range(10, 100)), tuple(str(n) for n in range(100, 1000)))

Lexicon = Mapping[str, Pool]

POOLS: Lexicon = {
    "person": PERSON, "place": PLACE, "item": ITEM, "dish": DISH,
    "spot": SPOT, "thing": THING, "event": EVENT, "number": NUMBER,
}  # fmt: skip
