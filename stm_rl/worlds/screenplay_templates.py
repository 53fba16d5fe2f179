"""What is said and done in the screenplay world.

``{k}`` stands for the key of a fact (whom or what it is about), ``{v}`` for its value, ``{a}`` and ``{b}`` for the two
characters of the beat (``The Captain``), so both only begin a sentence. A phrasing that begins with ``|`` is an action
line, any other is said by a character. Each field holds the phrasings of training episodes and, after them, held-out
ones. No phrasing holds a word of a pool, nor anything that Fountain would take for another element.
"""

from __future__ import annotations

from stm_rl.worlds.lexicon import POOLS, Lexicon, Pool
from stm_rl.worlds.relation import Chain, Phrasings, Relation

ACTION = "| "
"""How a phrasing begins that is an action line."""


def _pool(train: str, heldout: str) -> Pool:
    return Pool(tuple(train.split()), tuple(heldout.split()))


SCREENPLAY_POOLS: Lexicon = {
    **{name: POOLS[name] for name in ("person", "place", "nook", "item", "number")},
    "role": _pool(
        "Inspector Sergeant Professor Captain Doctor Colonel Baroness Butler Pilot Waiter Reporter Nurse Bishop "
        "Chauffeur",
        "Detective Admiral Countess Marshal Boxer Ambassador Chemist Stuntman",
    ),
    "prop": _pool(
        "letter revolver ledger locket cassette telegram dagger diary blueprint ring badge permit cipher reel medal "
        "pistol keycard whistle",
        "syringe rosary manuscript sextant bullet postcard monocle visa",
    ),
    "loot": _pool(
        "diamond ransom painting crown tape sapphire microfilm serum bomb detonator transmitter skull trophy "
        "prototype relic contract",
        "tiara figurine meteorite parchment radio topaz goblet harp",
    ),
    "lock": _pool(
        "vault tunnel bunker archive elevator laboratory hangar armory crypt dungeon embassy cage",
        "silo reactor strongroom hatch turnstile observatory",
    ),
    "guise": _pool(
        "spy smuggler forger thief burglar gambler deserter poisoner fugitive traitor stalker killer diplomat pirate "
        "hypnotist bigamist pretender blackmailer counterfeiter sniper trickster saboteur bandit hacker",
        "hermit mercenary pickpocket vampire robot kidnapper bootlegger swindler stowaway gangster hustler sorcerer",
    ),
}
"""Speakers come from ``role``, which is no value of any fact, so a character cue gives no answer away."""

CARRY = Relation(
    "carry", "prop", "person",
    facts=(
        ("{v} has the {k}, and we need it.", "We gave the {k} to {v}.", "{v} is carrying the {k} for us.",
         "{v} took the {k} and won't let go of it."),
        ("We gave {v} the {k}, and we need it.", "{v} has the {k} for us and won't let go of it."),
    ),
    messages=(
        ("| {v} slips the {k} under a coat.", "| {v} picks up the {k} and leaves.", "| {a} hands the {k} to {v}.",
         "| {v} pockets the {k} without a word."),
        ("| {v} pockets the {k} and leaves.", "| {a} slips {v} the {k} without a word."),
    ),
    hedged=(
        ("Perhaps {v} has the {k}.", "{v} could have the {k}, who knows."),
        ("Who knows, perhaps {v} has the {k}.",),
    ),
    updates=(
        ("The {k} changed hands, {v} has it now.", "It is {v} who has the {k} now.",
         "| The {k} changes hands, and now {v} slips it under a coat."),
        ("Now it is {v} who has the {k}.", "| The {k} changes hands again, and now {v} has it."),
    ),
    cancels=(
        ("The {k} is at the bottom of the sea.", "Forget the {k}, it was a fake.",
         "| {a} throws the {k} into the river."),
        ("Forget the {k}, it is at the bottom of the river.", "| {a} throws the {k} into the sea."),
    ),
    distractors=(
        ("Years ago {v} pawned a {k} just like that.", "In the war {v} carried a {k}.",
         "They say {v} once lost a {k} in the snow.", "| A faded photograph shows {v} with a {k}.",
         "| Flashback. A much younger {v} plays with a {k}."),
        ("In the war {v} once lost a {k}.", "They say {v} pawned a {k} years ago.",
         "| Flashback. A much younger {v} loses a {k} in the snow."),
    ),
    asks=(
        ("Who has the {k}?", "Who is carrying the {k}?", "Tell me who took the {k}.",
         "| {a} looks around for whoever has the {k}."),
        ("Tell me who has the {k}.", "| {a} looks around. Who is carrying the {k}?"),
    ),
    answers=(
        ("{v} has it.", "It was {v}.", "It's with {v}.", "| {b} points at {v}."),
        ("{v} is carrying it.", "| {b} nods and points at {v}."),
    ),
)  # fmt: skip

WHEREABOUTS = Relation(
    "whereabouts", "person", "place",
    facts=(
        ("{k} is hiding at the {v}.", "{k} is waiting for us at the {v}.", "We told {k} to stay at the {v}.",
         "They are holding {k} at the {v}.", "Tonight {k} sleeps at the {v}."),
        ("We told {k} to wait for us at the {v}.", "Tonight {k} is hiding at the {v}."),
    ),
    messages=(
        ("| On a monitor, {k} enters the {v}.", "| {k} runs across the street to the {v}.",
         "| Headlights. {k} is dropped off at the {v}.", "| {a} sticks a pin into the chart: {k}, the {v}."),
        ("| On a monitor, {k} is dropped off at the {v}.", "| {k} runs through the rain to the {v}."),
    ),
    hedged=(
        ("Perhaps {k} went to the {v}.", "{k} could be at the {v}, who knows."),
        ("Who knows, perhaps {k} is at the {v}.",),
    ),
    updates=(
        ("{k} moved on and is at the {v} now.", "They took {k} to the {v} instead.",
         "| {k} leaves through the back and hides at the {v} instead."),
        ("{k} moved on, now it is the {v} instead.", "| {k} leaves and hides at the {v} now."),
    ),
    cancels=(
        ("{k} has left the country.", "{k} got away, forget it.", "| A plane takes off with {k} on board."),
        ("Forget it, {k} has left on a plane.", "| A plane takes {k} out of the country."),
    ),
    distractors=(
        ("{k} got married at the {v}, years ago.", "They say {k} once robbed the {v}.",
         "In the war {k} guarded the {v}.", "| A framed picture shows {k} in front of the {v}.",
         "| Flashback. A much younger {k} runs from the {v}."),
        ("They say {k} got married at the {v}.", "Years ago {k} robbed the {v}.",
         "| A faded photograph shows {k} at the {v}."),
    ),
    asks=(
        ("Where is {k}?", "Where do we find {k}?", "Tell me where {k} is hiding.",
         "| {a} starts the engine. They have to find {k}."),
        ("Tell me where to find {k}.", "| {a} starts the engine. Where is {k}?"),
    ),
    answers=(
        ("At the {v}.", "Try the {v}.", "The {v}, last we heard.", "| They stop in front of the {v}."),
        ("Last we heard, at the {v}.", "| They find the {v} and stop."),
    ),
)  # fmt: skip

HIDE = Relation(
    "hide", "loot", "nook",
    facts=(
        ("We hid the {k} in the {v}.", "The {k} stays in the {v} until we leave.", "We left the {k} in the {v}.",
         "The {k} is in the {v}, where nobody looks."),
        ("We hid the {k} in the {v}, where nobody looks.", "The {k} is in the {v} until we leave."),
    ),
    messages=(
        ("| {a} hides the {k} in the {v}.", "| {a} pushes the {k} deep into the {v}.",
         "| The {k} disappears into the {v}.", "| {a} looks around and puts the {k} in the {v}."),
        ("| {a} puts the {k} deep into the {v}.", "| {a} looks around and hides the {k} in the {v}."),
    ),
    hedged=(
        ("Perhaps the {k} is in the {v}.", "The {k} could be in the {v}, who knows."),
        ("Who knows, perhaps the {k} is in the {v}.",),
    ),
    updates=(
        ("We had to move the {k} to the {v}.", "The {k} is in the {v} now.",
         "| {a} takes the {k} out again and puts it in the {v} instead."),
        ("We had to take the {k} out, it is in the {v} now.", "| {a} moves the {k} to the {v} instead."),
    ),
    cancels=(
        ("The police have the {k}.", "The {k} is gone for good.", "| Two officers carry the {k} away."),
        ("The {k} is gone, the police have it.", "| Two officers take the {k} away."),
    ),
    distractors=(
        ("My father kept a {k} in the {v}.", "They say a {k} once lay in the {v} for years.",
         "In the war they found a {k} in the {v}.", "| Flashback. A child finds a {k} in the {v}.",
         "| An old newspaper tells of a {k} in the {v}."),
        ("Years ago my father found a {k} in the {v}.", "They say they once found a {k} in the {v}.",
         "| Flashback. A {k} lay in the {v} in the war."),
    ),
    asks=(
        ("Where did we hide the {k}?", "Where is the {k}?", "Tell me where the {k} is.",
         "| {a} looks everywhere for the {k}."),
        ("Tell me where we hid the {k}.", "| {a} looks around for the {k}."),
    ),
    answers=(
        ("In the {v}.", "It's in the {v}.", "Try the {v}.", "| {b} takes it from the {v}.", "| {b} points to the {v}."),
        ("It is in the {v}, try there.", "| {b} takes it out of the {v}."),
    ),
)  # fmt: skip

PROMISE = Relation(
    "promise", "person", "item",
    facts=(
        ("We promised {k} a {v}.", "{k} will only talk for a {v}.", "{k} wants a {v} for keeping quiet.",
         "Our deal with {k} is for one {v}."),
        ("We promised {k} one {v} for keeping quiet.", "{k} will keep quiet for a {v}."),
    ),
    messages=(
        ("| {a} draws a {v} on a napkin. {k} nods.", "| {k} points at a {v} in a shop window. {a} nods.",
         "| {a} writes on a list: {k}, one {v}.", "| {k} asks for a {v}. They shake hands."),
        ("| {k} points at a {v} on a list. They shake hands.", "| {k} asks for a {v}. {a} nods."),
    ),
    hedged=(
        ("Perhaps {k} would talk for a {v}.", "{k} could be after a {v}, who knows."),
        ("Who knows, perhaps {k} is after a {v}.",),
    ),
    updates=(
        ("{k} changed the deal, now it is a {v}.", "{k} wants a {v} instead.",
         "| {k} crosses something out on the list and writes {v} instead."),
        ("{k} changed the deal and wants a {v} instead.", "| {k} points at a {v} instead."),
    ),
    cancels=(
        ("{k} wants nothing from us any more.", "The deal with {k} is off.", "| {k} walks away from the deal."),
        ("The deal is off, {k} wants nothing any more.", "| {k} walks away and wants nothing."),
    ),
    distractors=(
        ("Years ago {k} stole a {v} from my mother.", "They say {k} once smashed a {v} in a rage.",
         "In the war {k} won a {v} at cards.", "| Flashback. A much younger {k} cries over a broken {v}.",
         "| An old sketch shows {k} holding a {v}."),
        ("They say {k} won a {v} at cards years ago.", "In the war {k} stole a {v}.",
         "| An old cartoon shows {k} holding a {v}."),
    ),
    asks=(
        ("What did we promise {k}?", "What does {k} want from us?", "Tell me what the deal with {k} was.",
         "| {k} comes in, one hand held out for what was promised."),
        ("Tell me what {k} wants from us.", "| {k} comes in. What was promised?"),
    ),
    answers=(
        ("A {v}.", "One {v}, that was the deal.", "It was a {v}.", "| {b} puts a {v} on the table."),
        ("A {v}, that was it.", "| {b} brings a {v} to the table."),
    ),
)  # fmt: skip

CODE = Relation(
    "code", "lock", "number",
    facts=(
        ("The code for the {k} is {v}.", "{v} opens the {k}.", "They set the code at the {k} to {v}.",
         "The guard at the {k} wants to hear {v}."),
        ("The code {v} opens the {k}.", "They set it to {v}, the code for the {k}."),
    ),
    messages=(
        ("| {a} types {v} and the {k} opens.", "| {a} writes {v} on the plan, next to the {k}.",
         "| A note slides under the door: {k}, {v}.", "| The guard of the {k} types {v}. {a} watches."),
        ("| {a} watches. The guard of the {k} types {v}.", "| A note on the plan: {k}, {v}."),
    ),
    hedged=(
        ("Perhaps the code for the {k} is {v}.", "It could be {v} for the {k}, who knows."),
        ("Who knows, perhaps {v} opens the {k}.",),
    ),
    updates=(
        ("They changed the code for the {k} to {v}.", "It is {v} for the {k} now, the old code is dead.",
         "| {a} crosses out the old code for the {k} and writes {v}."),
        ("The old code is dead, now {v} opens the {k}.", "| {a} writes a new code for the {k}: {v}."),
    ),
    cancels=(
        ("The {k} has no lock any more.", "Forget the {k}, they welded it shut.", "| An explosion. The {k} is gone."),
        ("Forget the {k}, it is gone.", "| An explosion. The {k} has no door any more."),
    ),
    distractors=(
        ("They say {v} people died in the {k}.", "My father guarded the {k} for {v} nights.",
         "Years ago we spent {v} hours in the {k}.", "| Flashback. A much younger guard counts {v} steps to the {k}.",
         "| A plaque honors {v} soldiers at the {k}."),
        ("They say my father spent {v} hours in the {k}.", "Years ago {v} people guarded the {k}.",
         "| Flashback. In the {k}, {v} soldiers in the snow."),
    ),
    asks=(
        ("What is the code for the {k}?", "How do we open the {k}?", "Tell me what opens the {k}.",
         "| {a} stops at the {k}. The keypad blinks."),
        ("Tell me the code for the {k}.", "| The keypad of the {k} blinks."),
    ),
    answers=(
        ("{v}.", "It's {v}.", "Try {v}.", "| {b} types {v}."),
        ("The code is {v}.", "| {b} nods and types {v}."),
    ),
)  # fmt: skip

SECRET = Relation(
    "secret", "person", "guise",
    facts=(
        ("Only we know it, but {k} is a {v}.", "{k} is really a {v}.", "Keep it quiet, {k} is secretly a {v}.",
         "The truth is that {k} is a {v}."),
        ("Keep it quiet, but {k} is really a {v}.", "The truth is that {k} is secretly a {v}."),
    ),
    messages=(
        ("| A file falls open. {k} is a {v}.", "| {a} unseals a note: {k}, a {v}.",
         "| {a} listens at the door. They call {k} a {v}.", "| {k} tears off the wig, unmasked as a {v}."),
        ("| {a} listens. They call {k} a {v}.", "| A file falls open: {k}, a {v}."),
    ),
    hedged=(
        ("Perhaps {k} is a {v}.", "{k} could be a {v}, who knows."),
        ("Who knows, perhaps {k} is a {v}.",),
    ),
    updates=(
        ("We were wrong, {k} is a {v}.", "That was only a cover, {k} is a {v}.",
         "| {a} turns the page. The file calls {k} a {v} instead."),
        ("We were wrong, it was only a cover, {k} is a {v}.", "| {a} turns the page. {k} is a {v} instead."),
    ),
    cancels=(
        ("{k} told everyone, it is no secret any more.", "The whole town knows about {k} now.",
         "| {k} signs a confession."),
        ("The whole town knows, {k} signed a confession.", "| {k} signs a confession for the whole town."),
    ),
    distractors=(
        ("{k} once played a {v} on stage.", "Years ago {k} danced with a {v}.",
         "They say {k} was in love with a {v}.", "| Flashback. A much younger {k} runs into a {v} in the rain.",
         "| An old cartoon shows {k} next to a {v}."),
        ("They say {k} once danced with a {v}.", "Years ago {k} was in love with a {v}.",
         "| Flashback. A much younger {k} next to a {v}."),
    ),
    asks=(
        ("What is {k} really?", "What is {k} hiding from the world?", "Tell me the truth about {k}.",
         "| {a} stares at a picture of {k}. Something is wrong."),
        ("Tell me what {k} is really.", "| {a} stares at a picture of {k}. The truth."),
    ),
    answers=(
        ("A {v}.", "{k} is a {v}.", "Nothing but a {v}.", "| {b} opens the file. The stamp says {v}."),
        ("{k} is nothing but a {v}.", "| {b} reads the last line. A {v}."),
    ),
)  # fmt: skip

RELATIONS: tuple[Relation, ...] = (CARRY, WHEREABOUTS, HIDE, PROMISE, CODE, SECRET)

CHAIN = Chain(
    "carry", WHEREABOUTS, share=0.6,
    asks=(
        ("Where do we find whoever has the {k}?", "Where is the {k} right now, and with whom?",
         "Take me to the one who has the {k}.", "| {a} starts the engine. They need the {k} back."),
        ("Where do we find the one who has the {k}?", "| {a} starts the engine. They have to find the {k}."),
    ),
    answers=(
        ("{i} has it, at the {v}.", "With {i}, at the {v}.", "{i} has the {k}, so we go to the {v}.",
         "| They find {i} with the {k} at the {v}."),
        ("With {i}, so we go to the {v}.", "| They find {i} at the {v}, with the {k}."),
    ),
)  # fmt: skip
"""Who carries the prop (``{i}``), then where that person is (``{v}``)."""

ACKS: Phrasings = (
    ("Understood.", "All right.", "Good to know.", "I see.", "Fine.", "Clear.", "| {b} nods.",
     "| {b} lights a cigarette."),
    ("All right, I see.", "| {b} nods and lights a cigarette."),
)  # fmt: skip
SEEN: Phrasings = (
    ("Well, well.", "Did you see that?", "Look at that.", "Now we know.", "| {b} watches.", "| {b} raises an eyebrow."),
    ("Look, did you see that?", "| {b} raises an eyebrow and watches."),
)  # fmt: skip
REMEMBERED: Phrasings = (
    (
        "I remember.",
        "That was long ago.",
        "Nobody remembers that any more.",
        "| {b} smiles.",
        "| {b} wipes away a tear.",
    ),
    ("Nobody remembers, it was long ago.", "| {b} smiles and wipes away a tear."),
)
"""Reactions to an action line of the present, and to one of the past."""
CANCEL_ACKS: Phrasings = (
    ("Too bad.", "That is that, then.", "All that work for nothing.", "| {b} sighs."),
    ("Too bad, all that work.", "| {b} sighs and nods."),
)
GOSSIP_REPLIES: Phrasings = (
    ("You made that up.", "What a story.", "I never heard that.", "Those were the days.", "| {b} laughs.",
     "| {b} yawns."),
    ("What a story, those were the days.", "| {b} laughs and nods."),
)  # fmt: skip
CHAT: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = (
    (
        ("Do you ever sleep?", "Not since the divorce."),
        ("This coffee is cold.", "So is everything here."),
        ("You look tired.", "You look worse."),
        ("I should have been a dentist.", "You faint when you see blood."),
        ("How long have we been doing this?", "Too long."),
        ("Did you hear that?", "It was only the wind."),
        ("I quit smoking.", "Again?"),
        ("Nice coat.", "Thanks, it was my brother's."),
        ("We need more time.", "There is never more time."),
        ("| Rain hammers on the roof.", "| {b} stares into the dark."),
        ("| A siren wails, far away.", "It's not for us."),
        ("| The lights flicker.", "Not again."),
        ("| A dog barks.", "| {b} turns around. Nothing."),
        ("| Thunder rolls over the town.", "| {b} pours two drinks."),
        ("| A waltz plays on the gramophone.", "I hate this song."),
        ("| Smoke hangs in the air.", "Open a window."),
    ),
    (
        ("You look cold.", "Open a window and you will see."),
        ("Did you sleep?", "Not since that song."),
        ("| A dog barks, far away.", "| {b} stares into the rain."),
        ("| Smoke hangs over the roof.", "It's only the wind."),
    ),
)
EMPHASIS: Phrasings = (
    (" Remember that.", " Our lives depend on it.", " Don't forget it."),
    (" Don't forget, our lives depend on it.",),
)
"""Sometimes follow what is said of a fact; never the only sign that it matters."""

MANNERS: dict[str, Phrasings] = {
    "": (
        ("quietly", "whispering", "smiling", "after a pause", "without looking up"),
        ("almost smiling", "looking up"),
    ),
    "fact": (("firmly", "urgently", "leaning in"), ("leaning in, urgently",)),
    "hedge": (("shrugging", "unsure"), ("shrugging, unsure",)),
    "distractor": (("laughing", "dreamily", "with a grin"), ("laughing, dreamily",)),
    "ask": (("impatient", "nervous", "raising an eyebrow"), ("nervous, impatient",)),
    "answer": (("at last", "thinking", "patiently"), ("thinking, at last",)),
}
"""Parentheticals that fit any turn (``""``) and those that fit turns of one kind."""

SETS: Phrasings = (
    ("INT. SAFEHOUSE", "INT. NIGHT TRAIN", "INT. DINER", "INT. STOLEN VAN", "INT. POLICE ARCHIVES", "INT. CASTING ROOM",
     "INT. BACKSTAGE", "EXT. ROOFTOP", "EXT. BACK ALLEY", "EXT. BORDER CROSSING", "EXT. GRAVEYARD", "EXT. PIER",
     "INT./EXT. TAXI"),
    ("INT. NIGHT CLUB", "INT. STOLEN TAXI", "EXT. BACK ROAD", "INT. POLICE ROOM"),
)  # fmt: skip
TIMES: Phrasings = (("DAY", "NIGHT", "DAWN", "DUSK"), ("DAY", "NIGHT"))
OPENINGS: Phrasings = (
    ("| {a} and the others crowd around a table.", "| {a} waits in the shadows. {b} arrives.",
     "| {b} checks the window. {a} sits down.", "| {a} and the others are on the move again."),
    ("| {a} and the others wait in the shadows.", "| {b} sits down at the table. {a} arrives."),
)  # fmt: skip
TRANSITIONS: Phrasings = (("CUT TO:", "SMASH CUT TO:", "DISSOLVE TO:"), ("MATCH CUT TO:",))
