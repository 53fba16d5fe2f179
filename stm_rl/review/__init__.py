"""People compare texts written with and without memory, without knowing which is which."""

from stm_rl.review.store import ASPECTS, Rating, Store
from stm_rl.review.tasks import Tasks

__all__ = ["ASPECTS", "Rating", "Store", "Tasks"]
