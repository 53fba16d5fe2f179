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


# Of the story world.
TOOL = _pool(
    "lantern rope sword shield shovel ladder blanket bucket horn saw net banner candle whip torch drum hammer "
    "crossbow sled bellows",
    "mirror tent spear harness plow hatchet canoe quilt",
)
TREASURE = _pool(
    "locket ring coin crown crystal diary map key pearl dagger necklace medal chalice scroll ruby flute",
    "garnet goblet tiara brooch scepter statuette talisman compass",
)
NOOK = _pool(
    "shed attic cellar oven piano barrel haystack chimney stove drawer cupboard pillow mattress teapot boot basket "
    "trunk stump nest coffin statue clock wall kettle",
    "wardrobe basement stable tub dresser crate chest cradle wagon churn urn saddlebag",
)
LAND = _pool(
    "mill bridge harbor chapel castle lighthouse market farm valley forest cave island lake river meadow village inn "
    "camp swamp ruins cliff waterfall canyon desert",
    "tower fountain quarry orchard brewery temple glacier marsh cove plateau ravine lagoon",
)
TRADE = _pool(
    "baker sailor painter doctor tailor soldier singer dancer teacher hunter potter blacksmith poet juggler shepherd "
    "clockmaker gardener carpenter lawyer miner pirate pilot judge wizard",
    "fisherman mason weaver surgeon magician jeweler beekeeper knight banker violinist sculptor goldsmith",
)
FEAR = _pool(
    "thunder snakes ghosts spiders heights darkness fire bees wolves bats storms needles crowds fog bears clowns "
    "witches giants silence blood rats robbers quicksand tunnels",
    "lightning scorpions dragons wasps trolls avalanches leeches dolls goblins earthquakes bulls vampires",
)
ANIMAL = _pool(
    "dog cat goat fox crow donkey goose rabbit turtle pony squirrel parrot raven lamb pig duck hedgehog swan calf "
    "deer frog mouse sparrow badger",
    "rooster weasel stork beaver heron mule ferret pigeon kitten falcon lizard toad",
)

Lexicon = Mapping[str, Pool]

POOLS: Lexicon = {
    "person": PERSON, "place": PLACE, "item": ITEM, "dish": DISH,
    "spot": SPOT, "thing": THING, "event": EVENT, "number": NUMBER,
    "tool": TOOL, "treasure": TREASURE, "nook": NOOK, "land": LAND, "trade": TRADE, "fear": FEAR, "animal": ANIMAL,
}  # fmt: skip
