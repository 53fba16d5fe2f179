"""What people say in the dialogue world.

``{k}`` stands for the key of a fact (whom or what it is about), ``{v}`` for its value.
Each field holds the phrasings of training episodes and, after them, held-out phrasings.
"""

from __future__ import annotations

from stm_rl.worlds.relation import NONE, Chain, Phrasings, Relation

RELATIONS: tuple[Relation, ...] = (
    Relation(
        "meet", "person", "place",
        facts=(
            ("I'm meeting {k} at the {v} on Friday.", "{k} and I will get together at the {v}.",
             "I promised to pick up {k} from the {v}.", "{k} will wait for me at the {v}.",
             "My appointment with {k} is at the {v}."),
            ("I have to see {k} at the {v} on Friday.", "{k} will meet me at the {v}, I promised."),
        ),
        messages=(
            ("Yes, {k} will wait for you at the {v}.", "{k} wants you to come to the {v} on Friday."),
            ("One, {k} will meet you at the {v}.",),
        ),
        hedged=(
            ("I might see {k} at the {v} if there is time.", "Maybe {k} will show up at the {v}."),
            ("Maybe I see {k} at the {v} if I have time.",),
        ),
        updates=(
            ("Change of plan, {k} will be at the {v} instead.", "{k} moved it, now we meet at the {v}."),
            ("{k} called, we meet at the {v} instead.",),
        ),
        cancels=(
            ("I won't be seeing {k} after all.", "My plan with {k} is off."),
            ("{k} is sick, so our plan is off.",),
        ),
        distractors=(
            ("I ran into {k} at the {v} last month.", "{k} used to work at the {v} years ago.",
             "Years ago {k} and I got lost near the {v}.", "Someone said {k} once slept at the {v}."),
            ("Years ago I ran into {k} near the {v}.", "{k} once got lost at the {v} last year."),
        ),
        asks=(
            ("Where am I meeting {k} again?", "Remind me where {k} will be.",
             "I forgot where I should find {k}.", "Which place did I agree on with {k}?"),
            ("Remind me where I am meeting {k}?", "Which place was it with {k} again?"),
        ),
        answers=(
            ("At the {v}.", "You said the {v}.", "It was the {v}."),
            ("You said at the {v}.",),
        ),
    ),
    Relation(
        "gift", "person", "item",
        facts=(
            ("{k} wants a {v} for the birthday.", "I'm going to give {k} a {v}.",
             "{k} really needs a {v}, so that will be the present.", "For {k} I decided on a {v}."),
            ("I decided to give {k} a {v}.", "{k} needs a {v} for the birthday."),
        ),
        messages=(
            ("Yes, {k} is hoping for a {v} this year.", "{k} would love a {v} as a present."),
            ("One, {k} would like a {v} for the birthday.",),
        ),
        hedged=(
            ("Maybe a {v} would suit {k} some day.", "I might get {k} a {v} if there is money left."),
            ("I might buy {k} a {v} some day.",),
        ),
        updates=(
            ("{k} would rather have a {v} now.", "Scrap that, {k} gets a {v} instead."),
            ("Change of plan, {k} would rather have a {v}.",),
        ),
        cancels=(
            ("{k} doesn't want a present any more.", "No present for {k} after all."),
            ("The present for {k} is off.",),
        ),
        distractors=(
            ("{k} got a {v} from an aunt last year.", "{k} once lost a {v} on a train.",
             "Years ago {k} broke my {v}.", "I heard {k} sold an old {v} last month."),
            ("{k} once sold a {v} years ago.", "Last year {k} lost an old {v}."),
        ),
        asks=(
            ("What does {k} want for a present?", "What was I going to give {k}?",
             "Remind me what {k} is getting.", "I forgot what to buy for {k}."),
            ("Remind me what {k} wants for a present?", "What was I going to buy for {k}?"),
        ),
        answers=(
            ("A {v}.", "You said a {v}.", "It was a {v}."),
            ("You decided on a {v}.",),
        ),
    ),
    Relation(
        "order", "person", "dish",
        facts=(
            ("{k} will have the {v} tonight.", "Please put {k} down for the {v}.",
             "I'm cooking the {v} for {k}.", "{k} asked for the {v} at dinner."),
            ("Please put down the {v} for {k} tonight.", "{k} will have the {v} at dinner."),
        ),
        messages=(
            ("Yes, {k} would like the {v} tonight.", "{k} picked the {v} for dinner."),
            ("One, {k} will have the {v} for dinner.",),
        ),
        hedged=(
            ("Maybe {k} will try the {v}.", "{k} might go for the {v} if there is any."),
            ("{k} might try the {v} some day.",),
        ),
        updates=(
            ("{k} switched to the {v}.", "Make it the {v} for {k} instead."),
            ("{k} would rather have the {v} now.",),
        ),
        cancels=(
            ("{k} isn't coming to dinner after all.", "No dinner for {k} after all."),
            ("Dinner with {k} is off.",),
        ),
        distractors=(
            ("{k} once burned the {v} badly.", "{k} hated the {v} in Rome last year.",
             "As a child {k} lived on {v}.", "Years ago {k} won a prize for the {v}."),
            ("Last year {k} burned the {v}.", "{k} once hated the {v} as a child."),
        ),
        asks=(
            ("What is {k} having tonight?", "What did {k} choose for dinner?",
             "Remind me what to serve {k}.", "I forgot what {k} ordered."),
            ("Remind me what {k} is having tonight?", "What did {k} order for dinner?"),
        ),
        answers=(
            ("The {v}.", "{k} asked for the {v}.", "That was the {v}."),
            ("You put down the {v}.",),
        ),
    ),
    Relation(
        "store", "thing", "spot",
        facts=(
            ("I put the {k} in the {v}.", "The {k} is in the {v} now.",
             "I'm leaving the {k} in the {v}.", "From now on the {k} stays in the {v}."),
            ("I'm putting the {k} in the {v} now.", "The {k} stays in the {v} from now on."),
        ),
        messages=(
            ("Yes, your {k} is lying in the {v}.", "They put your {k} in the {v}."),
            ("One, your {k} is in the {v} now.",),
        ),
        hedged=(
            ("Maybe the {k} should go in the {v} some day.", "The {k} might fit in the {v}."),
            ("I might put the {k} in the {v} some day.",),
        ),
        updates=(
            ("I moved the {k} to the {v}.", "The {k} is no longer there, it's in the {v} instead."),
            ("The {k} moved, now it's in the {v}.",),
        ),
        cancels=(
            ("I sold the {k}, so that is settled.", "I gave the {k} away."),
            ("I gave the {k} away, so that is settled.",),
        ),
        distractors=(
            ("My uncle kept a {k} in his {v} for years.", "I once found somebody's {k} in the {v}.",
             "Last year somebody stole a {k} from the {v}.", "As a child I hid a {k} in the {v}."),
            ("Years ago I found a {k} in the {v}.", "My uncle once hid a {k} in his {v}."),
        ),
        asks=(
            ("Where did I put the {k}?", "Remind me where the {k} is.",
             "I forgot where the {k} went.", "Where should I look for the {k}?"),
            ("Remind me where I put the {k}?", "I forgot where to look for the {k}."),
        ),
        answers=(
            ("In the {v}.", "You said the {v}.", "It should be in the {v}."),
            ("It is in the {v}.",),
        ),
    ),
    Relation(
        "room", "event", "number",
        facts=(
            ("The {k} is in room {v}.", "I have to be in room {v} for the {k}.",
             "They put the {k} in room {v}.", "My {k} takes place in room {v}."),
            ("The {k} takes place in room {v}.", "I have my {k} in room {v}."),
        ),
        messages=(
            ("Yes, your {k} will be in room {v}.", "They booked room {v} for your {k}."),
            ("One, your {k} takes place in room {v}.",),
        ),
        hedged=(
            ("Maybe the {k} will be in room {v}.", "The {k} might end up in room {v}."),
            ("The {k} might be in room {v} some day.",),
        ),
        updates=(
            ("The {k} was moved to room {v}.", "Not that room, the {k} is in room {v} instead."),
            ("Change of plan, the {k} moved to room {v}.",),
        ),
        cancels=(
            ("The {k} got called off.", "I'm not going to the {k} after all."),
            ("The {k} is off.",),
        ),
        distractors=(
            ("Last year the {k} in room {v} was a disaster.", "I slept through a {k} in room {v} years ago.",
             "My uncle once taught a {k} in room {v}.", "As a child I hated the {k} in room {v}."),
            ("Years ago the {k} in room {v} was a disaster.", "I once slept in room {v} at a {k}."),
        ),
        asks=(
            ("Which room is the {k} in?", "Remind me of the room for the {k}.",
             "I forgot where the {k} takes place.", "What room do I need for the {k}?"),
            ("Remind me which room the {k} is in?", "I forgot the room for the {k}."),
        ),
        answers=(
            ("Room {v}.", "It's in room {v}.", "You want room {v}."),
            ("You need room {v}.",),
        ),
    ),
    Relation(
        "lend", "thing", "person",
        facts=(
            ("I lent the {k} to {v}.", "{v} is looking after the {k} for me.",
             "{v} has the {k} until Friday.", "I'm leaving the {k} with {v}."),
            ("{v} has the {k} for me until Friday.", "I'm lending {v} the {k}."),
        ),
        messages=(
            ("Yes, {v} picked up your {k}.", "{v} will keep your {k} until Friday."),
            ("One, {v} has your {k} until Friday.",),
        ),
        hedged=(
            ("Maybe {v} could borrow the {k} some day.", "{v} might need the {k} if it rains."),
            ("{v} might borrow the {k} some day.",),
        ),
        updates=(
            ("The {k} went on to {v} instead.", "Now it is {v} who has the {k}."),
            ("Now {v} has the {k} instead.",),
        ),
        cancels=(
            ("I got the {k} back.", "The {k} is back with me, so that is settled."),
            ("I have the {k} back, so that is settled.",),
        ),
        distractors=(
            ("Years ago {v} repaired a {k} for my uncle.", "{v} once dropped a {k} on my foot.",
             "Last year {v} won a {k} at a fair.", "I heard {v} sold a {k} last month."),
            ("Last year {v} dropped a {k} on a train.", "Years ago {v} sold my uncle a {k}."),
        ),
        asks=(
            ("Who has the {k}?", "Who did I give the {k} to?",
             "Remind me who is keeping the {k}.", "I forgot who took the {k}."),
            ("Remind me who has the {k}?", "I forgot who is keeping the {k}."),
        ),
        answers=(
            ("{v} has it.", "You gave it to {v}.", "It's with {v}."),
            ("It was {v}.",),
        ),
    ),
)  # fmt: skip

SHOP = Relation(
    "shop", "item", "place",
    facts=(
        ("They sell a nice {k} at the {v}.", "I can get a {k} at the {v}.",
         "The {v} has a {k} on offer until Friday."),
        ("I can get a nice {k} at the {v} until Friday.",),
    ),
    messages=(
        ("Yes, the {v} has a {k} ready for you.", "The {v} will hold a {k} for you."),
        ("One, the {v} has a nice {k} for you.",),
    ),
    hedged=NONE,
    updates=NONE,
    cancels=NONE,
    distractors=NONE,
    asks=(
        ("Where do I buy the present for {k}?", "Which shop has what {k} wants?",
         "I forgot where to get the present for {k}."),
        ("Remind me where to buy what {k} wants?",),
    ),
    answers=(
        ("{k} wants a {i}, so go to the {v}.", "The {i} for {k} is sold at the {v}."),
        ("{k} wants the {i} that is sold at the {v}.",),
    ),
)  # fmt: skip
"""Second hop of a chain: whom a present is for leads to the item, the item to the shop."""

CHAIN = Chain("gift", SHOP, asks=SHOP.asks, answers=SHOP.answers)

ACKS: Phrasings = (
    ("Noted.", "Got it.", "All right.", "Okay, thanks for telling me.", "Sure.", "Understood."),
    ("Okay, noted.",),
)
CANCEL_ACKS: Phrasings = (
    ("Okay, I crossed it out.", "Too bad.", "All right, that is gone."),
    ("Okay, too bad.",),
)
GOSSIP_REPLIES: Phrasings = (
    (
        "Oh, really?",
        "How funny.",
        "I had no idea.",
        "That is hard to believe.",
        "What a story.",
        "Small world.",
    ),
    ("Really? How funny.",),
)
NEWS_ASKS: Phrasings = (
    ("Any messages for me?", "Did anybody call?", "Is there any news?", "Anything new on your side?"),
    ("Any news for me?",),
)
CHAT: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = (
    (
        ("It got cold last night.", "Yes, winter is coming early."),
        ("I slept badly again.", "Maybe less coffee would help."),
        ("My train was 20 minutes late today.", "That line is always slow."),
        ("The neighbours are loud this week.", "You could ask them to be quiet."),
        ("I should exercise more.", "A short walk is a good start."),
        ("The coffee here is terrible.", "I can order a different kind."),
        ("What a long day.", "You have earned some rest."),
        ("I watched a film about whales.", "Was it any good?"),
        ("My phone keeps freezing.", "Have you tried turning it off and on?"),
        ("The Smiths painted their house green.", "That must look interesting."),
        ("I can't stand Mondays.", "Nobody likes them much."),
        ("It's raining again.", "The plants will be happy."),
        ("I read that bees can count to four.", "Nature is full of surprises."),
        ("My back hurts from the 12 hour drive.", "A warm bath might help."),
        ("Traffic was awful on Main Street this morning.", "There is work on the road until spring."),
        ("I think I'm getting old.", "You are as young as you feel."),
        ("The new song by the Blue Owls is great.", "I will add it to your list."),
        ("My sister's cat had 5 kittens.", "How sweet."),
    ),
    (
        ("The bus was late again this morning.", "You could take the train."),
        ("I read a great novel about bees.", "Was it long?"),
        ("It was cold on Main Street today.", "Winter is coming."),
        ("The Owls lost 3 games this week.", "They will be sad."),
    ),
)
EMPHASIS: Phrasings = (
    (" Please don't forget.", " That matters to me.", " Keep that in mind."),
    (" Please keep that in mind.",),
)
"""Sometimes follow a fact; never the only sign that it matters."""
