"""How a story of the story world is told.

Every phrasing is one sentence of prose. Names stand for characters, never pronouns with a gender.
What matters later is told as settled; what does not is told as the past, a song or a dream.
"""

from __future__ import annotations

from stm_rl.worlds.relation import Chain, Phrasings, Relation

GONE = Relation(
    "gone", "person", "land",
    facts=(
        ("{k} set out for the {v}.", "{k} went to live near the {v}.",
         "{k} settled down by the {v}.", "The road took {k} to the {v}."),
        ("{k} set out to live near the {v}.", "The road took {k} down to the {v}."),
    ),
    messages=(
        ("A traveler reported that {k} was staying near the {v}.", "Word came that {k} had reached the {v}."),
        ("Word came that {k} was staying by the {v}.",),
    ),
    hedged=(
        ("Perhaps {k} would travel to the {v} one day.", "{k} might visit the {v} at some point."),
        ("Perhaps {k} might visit the {v} one day.",),
    ),
    updates=(
        ("{k} moved on to the {v}.", "Before long {k} left there for the {v} instead."),
        ("Before long {k} moved on and reached the {v}.",),
    ),
    cancels=(
        ("{k} came home again.", "By evening {k} was back home for good."),
        ("{k} was home again by evening.",),
    ),
    distractors=(
        ("Long ago {k} had been robbed near the {v}.", "As a child {k} once got lost near the {v}.",
         "Years before, {k} had painted the {v}.", "An old song told of {k} and the {v}."),
        ("Years before, {k} had been lost near the {v}.", "As a child {k} once painted the {v}."),
    ),
    asks=(
        ("Everybody wondered where {k} was.", "A message had to reach {k}.",
         "They went to look for {k}.", "Somebody had to bring {k} back."),
        ("Everybody went to look for {k}.", "Somebody had to look where {k} was."),
    ),
    answers=(
        ("They found {k} near the {v}.", "The trail led to the {v}.", "At the {v} they met {k}."),
        ("They met {k} at the {v}.",),
    ),
)  # fmt: skip

RELATIONS: tuple[Relation, ...] = (
    Relation(
        "hold", "tool", "person",
        facts=(
            ("{v} took the {k} along.", "The {k} was now in the hands of {v}.",
             "{v} was given the {k} to look after.", "From then on {v} carried the {k}.",
             "They left the {k} with {v}."),
            ("{v} was given the {k} to carry.", "From then on the {k} was left with {v}."),
        ),
        messages=(
            ("A messenger reported that {v} had the {k}.", "Word came that the {k} was with {v} now."),
            ("A messenger reported that the {k} was with {v}.",),
        ),
        hedged=(
            ("{v} might borrow the {k} one day.", "Perhaps {v} would need the {k} at some point."),
            ("Perhaps {v} might need the {k} one day.",),
        ),
        updates=(
            ("The {k} changed hands, and {v} had it now.", "After a quarrel the {k} went to {v} instead."),
            ("After that the {k} changed hands and went to {v}.",),
        ),
        cancels=(
            ("The {k} broke in two and was thrown away.", "The {k} sank in deep water and was lost for good."),
            ("The {k} broke and was lost for good.",),
        ),
        distractors=(
            ("Years before, {v} had lost a {k} in a bet.", "{v} once told a long story about a {k}.",
             "An old song told of {v} and a {k}.", "Long ago {v} stole a {k} from a merchant."),
            ("Long ago {v} had lost a {k} to a merchant.", "Years before, {v} told a story about a {k}."),
        ),
        asks=(
            ("Now the {k} was needed.", "Nobody could go on without the {k}.",
             "It was time to use the {k}.", "Somebody called for the {k}."),
            ("Now it was time to call for the {k}.", "Nobody could do it without the {k}."),
        ),
        answers=(
            ("It was {v} who handed it over.", "They got it from {v}.", "Without a word {v} held it out."),
            ("It was {v} who held it out.",),
        ),
    ),
    Relation(
        "hide", "treasure", "nook",
        facts=(
            ("They hid the {k} in the {v}.", "The {k} was put away in the {v}.",
             "In secret the {k} was placed in the {v}.", "Nobody saw who put the {k} in the {v}."),
            ("In secret they put the {k} in the {v}.", "Nobody saw that the {k} was hidden in the {v}."),
        ),
        messages=(
            ("A note said that the {k} was in the {v}.", "A beggar whispered that the {k} lay in the {v}."),
            ("A note said that the {k} lay in the {v}.",),
        ),
        hedged=(
            ("The {k} might stay dry in the {v}.", "Perhaps the {v} would be a good place for the {k}."),
            ("Perhaps the {k} might stay dry in the {v}.",),
        ),
        updates=(
            ("At night somebody moved the {k} to the {v}.", "The {k} was taken out and hidden in the {v} instead."),
            ("At night the {k} was taken to the {v} instead.",),
        ),
        cancels=(
            ("The {k} was sold to a merchant.", "Thieves carried off the {k} for good."),
            ("The {k} was sold for good.",),
        ),
        distractors=(
            ("Years before, a {k} had been found in the {v}.", "Somebody once dreamed of a {k} in the {v}.",
             "An old song told of a {k} in the {v}.", "Long ago a thief dropped a {k} in the {v}."),
            ("Long ago a {k} had been found in the {v}.", "An old song told how a thief dropped a {k} in the {v}."),
        ),
        asks=(
            ("It was time to find the {k}.", "Now everything depended on the {k}.",
             "They began to search for the {k}.", "The {k} had to be found before dawn."),
            ("Now they had to find the {k}.", "It was time to search for the {k}."),
        ),
        answers=(
            ("It was in the {v}.", "In the {v} they found it.", "A look into the {v} was enough."),
            ("It was found in the {v}.",),
        ),
    ),
    Relation(
        "want", "person", "trade",
        facts=(
            ("{k} was determined to become a {v}.", "More than anything {k} wished to be a {v}.",
             "{k} made a vow to live as a {v}.", "{k} began to train as a {v}."),
            ("{k} made a vow to become a {v}.", "More than anything {k} began to wish to be a {v}."),
        ),
        messages=(
            ("A letter said that {k} was learning to be a {v}.", "Word came that {k} was going to be a {v}."),
            ("A letter said that {k} was going to be a {v}.",),
        ),
        hedged=(
            ("{k} might make a good {v} one day.", "Perhaps {k} could work as a {v} at some point."),
            ("Perhaps {k} might work as a {v} one day.",),
        ),
        updates=(
            ("{k} gave that up to become a {v} instead.", "{k} changed course and now trained as a {v}."),
            ("{k} changed course to become a {v}.",),
        ),
        cancels=(
            ("{k} gave up all such dreams.", "{k} no longer cared for any trade."),
            ("{k} no longer cared for such dreams.",),
        ),
        distractors=(
            ("Years before, {k} had quarreled with a {v}.", "{k} once shared a room with a {v}.",
             "An old song told of {k} and a {v}.", "Long ago {k} had been cheated by a {v}."),
            ("Long ago {k} had shared a room with a {v}.", "Years before, {k} had been cheated by a {v}."),
        ),
        asks=(
            ("At last the dream of {k} came true.", "The years of learning were over for {k}.",
             "The day of the great choice came for {k}.", "People asked what had become of {k}."),
            ("At last the years of learning were over for {k}.", "At last people asked what had become of {k}."),
        ),
        answers=(
            ("From that day on {k} was a {v}.", "The world had a new {v}.", "A {v} was what {k} had become."),
            ("From that day on the world had a new {v}.",),
        ),
    ),
    Relation(
        "fear", "person", "fear",
        facts=(
            ("{k} was terrified of {v}.", "Nothing frightened {k} more than {v}.",
             "{k} could not bear {v} at all.", "{k} admitted to a deep fear of {v}."),
            ("{k} admitted that nothing was worse than {v}.", "{k} could not bear even a little {v}."),
        ),
        messages=(
            ("A friend warned them that {k} was afraid of {v}.", "A healer said that {k} fell ill from {v}."),
            ("A friend warned them that {k} could not bear {v}.",),
        ),
        hedged=(
            ("{k} might be a little uneasy about {v}.", "Perhaps {k} did not care much for {v}."),
            ("Perhaps {k} might be uneasy about {v}.",),
        ),
        updates=(
            ("That fear passed, but now {k} dreaded {v}.", "{k} got over that and feared {v} instead."),
            ("{k} got over that fear but now dreaded {v}.",),
        ),
        cancels=(
            ("{k} was not afraid of anything any more.", "{k} lost every fear."),
            ("{k} lost every fear for good.",),
        ),
        distractors=(
            ("Years before, {k} had read a book about {v}.", "{k} once drew a picture of {v}.",
             "An old song told of {k} and {v}.", "Long ago somebody had told {k} about {v}."),
            ("Long ago {k} drew a picture of {v}.", "Years before, {k} had told somebody about {v}."),
        ),
        asks=(
            ("Suddenly {k} screamed.", "{k} froze and turned pale.",
             "In the night {k} woke up trembling.", "Something made {k} run away."),
            ("Suddenly {k} turned pale.", "Something made {k} wake up in the night."),
        ),
        answers=(
            ("The cause was {v}, of course.", "Only {v} could do that to {k}.", "It had to be {v}."),
            ("The cause had to be {v}.",),
        ),
    ),
    Relation(
        "follow", "person", "animal",
        facts=(
            ("A {v} followed {k} everywhere.", "{k} found a {v} and kept it.",
             "{k} raised a {v} by hand.", "From then on {k} traveled with a {v}."),
            ("{k} raised a {v} and kept it.", "From then on a {v} followed {k}."),
        ),
        messages=(
            ("A farmer said that {k} had been given a {v}.", "Word came that {k} now owned a {v}."),
            ("A farmer said that {k} now owned a {v}.",),
        ),
        hedged=(
            ("{k} might like a {v} one day.", "Perhaps a {v} would suit {k} at some point."),
            ("Perhaps {k} might like a {v} one day.",),
        ),
        updates=(
            ("It ran off, and {k} took in a {v} instead.", "{k} traded it for a {v}."),
            ("It ran off, so {k} found a {v} instead.",),
        ),
        cancels=(
            ("{k} set the animal free.", "The animal ran away from {k} for good."),
            ("{k} set the animal free for good.",),
        ),
        distractors=(
            ("Years before, {k} had been chased by a {v}.", "{k} once dreamed of a {v}.",
             "An old song told how {k} met a {v}.", "Long ago {k} had painted a {v}."),
            ("Long ago {k} had been chased by a {v}.", "Years before, {k} dreamed of a {v}."),
        ),
        asks=(
            ("A faithful animal came to {k}.", "{k} whistled twice.",
             "{k} called for the animal.", "Something warm lay down beside {k}."),
            ("{k} whistled for the animal.", "A faithful animal lay down beside {k}."),
        ),
        answers=(
            ("It was the {v}, loyal as ever.", "The {v} looked up at {k}.", "There stood the good old {v}."),
            ("It was the good old {v}.",),
        ),
    ),
    Relation(
        "promise", "person", "dish",
        facts=(
            ("{k} promised to bring the {v} to the feast.", "{k} was told to cook the {v} for the queen.",
             "For the feast {k} agreed to make the {v}.", "It was settled that {k} would serve the {v}."),
            ("It was settled that {k} would bring the {v}.", "{k} promised to cook the {v} for the feast."),
        ),
        messages=(
            ("The cook said that {k} would bring the {v}.", "Word came that {k} was in charge of the {v}."),
            ("The cook said that {k} was in charge of the {v}.",),
        ),
        hedged=(
            ("Perhaps {k} would try the {v} one day.", "{k} might cook the {v} at some point."),
            ("Perhaps {k} might cook the {v} one day.",),
        ),
        updates=(
            ("{k} was asked to make the {v} instead.", "The plan changed, so {k} had to cook the {v}."),
            ("The plan changed, and {k} was asked to cook the {v}.",),
        ),
        cancels=(
            ("{k} was no longer expected at the feast.", "{k} was freed from kitchen work."),
            ("{k} was no longer needed for kitchen work.",),
        ),
        distractors=(
            ("Years before, {k} had burned the {v}.", "{k} once fell ill after eating the {v}.",
             "As a child {k} had lived on {v}.", "An old song told how {k} stole the {v}."),
            ("Long ago {k} had burned the {v}.", "Years before, {k} fell ill after eating the {v}."),
        ),
        asks=(
            ("{k} came to the feast with a full pot.", "All eyes turned to the pot of {k}.",
             "At the feast {k} had to keep a promise.", "The guests asked what {k} had brought."),
            ("All eyes turned to what {k} had brought.", "The guests came to the feast to see {k} keep a promise."),
        ),
        answers=(
            ("It was the {v}, still hot.", "The {v} was served as agreed.", "Everybody tasted the {v}."),
            ("Everybody tasted the {v}, still hot.",),
        ),
    ),
    GONE,
)  # fmt: skip

CHAIN = Chain(
    "hold", GONE,
    asks=(
        ("They set out to find whoever had the {k}.", "The long way to the {k} began.",
         "Without the {k} all was lost, so the search began."),
        ("The long search for the {k} began.",),
    ),
    answers=(
        ("{i} was waiting near the {v} with it.", "They found {i} and got it back near the {v}."),
        ("They found {i} waiting near the {v} with it.",),
    ),
)  # fmt: skip
"""Where is the tool? Who holds it leads to where that character has gone."""

FILLERS: Phrasings = (
    (
        "Snow fell all night.", "The wind howled outside.", "A bell rang somewhere.", "Nobody spoke for a while.",
        "The days grew shorter.", "The moon rose above the hills.", "It rained for a week.", "The children played.",
        "Dinner was simple but good.", "A cart rolled past.", "The stars came out.", "The road was muddy.",
        "Everybody went to bed early.", "Spring came late that year.", "Somebody played a tune.",
        "The birds began to sing.", "Smoke rose from the roofs.", "The soldiers marched by.",
        "Old friends drank together.", "The morning was clear and cold.", "Dust lay on everything.",
        "The harvest was good.", "Three days went by.", "A stranger asked for water.",
    ),
    ("It snowed all morning.", "The wind was cold that night.", "Nobody sang for days.",
     "The children went to bed early."),
)  # fmt: skip
