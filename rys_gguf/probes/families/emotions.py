"""How strong a feeling is, in scenarios that are built from what feelings depend on.

Appraisal theory says that guilt needs something one did oneself, anger somebody else's intent,
surprise something unexpected, and so on. Every case below is one event told in two ways, which
differ in that one respect. A contrast asks only in which of the two the feeling is stronger;
ratings ask for four intensities, of which one is high and at least one absent.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rys_gguf.probes.draw import Place
from rys_gguf.probes.families.words import HE, SHE
from rys_gguf.probes.item import HIGHEST, Contrast, Item, Ratings

FAMILY = "eq"

PROVENANCE = (
    "The direction of every contrast follows from appraisal theory; the reference ratings are one "
    "author's, built by rule from the same appraisals. They are no human norms: they compare "
    "variants of one model, and are not comparable with EQ-Bench."
)


# What is told in both versions; the clause of the strong and of the weak version; how much the
# event weighs: -1 small, 0 middling, 1 great.
_Case = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Kind:
    """One appraisal, and the emotion that hangs on it.

    `felt` are the reference ratings where it holds, for an event of middling weight: the dominant
    emotion first, then two that are there as well, then three that are not. In the `cases`, {A} is
    the one whose feelings are asked for, {B} another; {him} and {his} stand for {A}.
    """

    felt: dict[str, int]
    cases: tuple[_Case, ...]

    @property
    def emotion(self) -> str:
        """The dominant one."""
        return next(iter(self.felt))


KINDS = (
    Kind(  # own doing against nobody's
        {"guilt": 8, "sadness": 4, "fear": 3, "joy": 0, "pride": 0, "gratitude": 0},
        (
            (
                "The plants that {B} had left in {A}'s care died.",
                "{A} had forgotten to water them.",
                "{A} had watered them daily, but frost killed them.",
                -1,
            ),
            (
                "The bicycle that {A} had borrowed from {B} was stolen.",
                "{A} had not bothered to lock it.",
                "{A} had locked it with two chains, which the thieves cut.",
                0,
            ),
            (
                "A cup that {B} loved broke in {A}'s kitchen.",
                "{A} had tossed it in the air for fun.",
                "An earthquake had shaken it off the shelf.",
                -1,
            ),
            (
                "{B} missed a flight, and {A} heard of it.",
                "{A} had told {B} the wrong time without checking.",
                "The road to the airport had been under water.",
                0,
            ),
            (
                "{B} lost a job over an error in the accounts.",
                "{A} had made the error and kept silent.",
                "{A} had had nothing to do with the accounts.",
                1,
            ),
            (
                "{B}'s dog got out of {A}'s garden and was run over.",
                "{A} had left the gate open.",
                "A storm had torn down the fence.",
                1,
            ),
            (
                "{B} waited in the rain for an hour, as {A} heard later.",
                "{A} had promised {B} a lift and gone shopping instead.",
                "The bus that {B} was waiting for had broken down.",
                -1,
            ),
            (
                "{B} fell from a ladder and broke an arm.",
                "{A} was meant to hold it and had walked off.",
                "{A} was holding it, but a rung had snapped.",
                1,
            ),
            (
                "{A} was told that {B}'s tent had burned down.",
                "{A} had left a candle alight inside.",
                "A tree that was struck by lightning had fallen on it.",
                0,
            ),
            (
                "{B} was punished for a broken window.",
                "{A} had broken it and said nothing.",
                "{A} had been away when it broke, and heard of it later.",
                0,
            ),
            (
                "{B} became ill after a meal at {A}'s house.",
                "{A} had known that the fish was old and served it.",
                "{A} had served it fresh; the illness came from a virus.",
                0,
            ),
            (
                "The bird that {A} was minding for {B} flew away.",
                "{A} had opened the cage for fun and the window too.",
                "Burglars had broken the cage open.",
                -1,
            ),
        ),
    ),
    Kind(  # on purpose against by accident
        {"anger": 8, "sadness": 4, "disappointment": 5, "joy": 0, "gratitude": 0, "pride": 0},
        (
            (
                "{B} spilled paint over {A}'s new coat.",
                "{B} had done it on purpose and laughed.",
                "{B} had stumbled over a step.",
                0,
            ),
            (
                "{B} deleted the report that {A} had written.",
                "{B} wanted {A} to look bad.",
                "{B} had clicked on the wrong file.",
                0,
            ),
            (
                "{B} told the whole office what {A} earns.",
                "{B} did it to make trouble for {A}.",
                "{B} had read out the wrong page by mistake.",
                0,
            ),
            (
                "{B} scratched the side of {A}'s car.",
                "{B} had dragged a key along it out of spite.",
                "{B} had slipped on the ice and fallen against it.",
                0,
            ),
            (
                "{B} ate the lunch that {A} had brought to work.",
                "{B} knew whose it was and did not care.",
                "{B} had the same box and mixed the two up.",
                -1,
            ),
            (
                "{B} gave {A} a wrong address, and {A} missed a job interview.",
                "{B} wanted the job for a friend.",
                "{B} had misread the street name.",
                1,
            ),
            (
                "{B} left {A} off the guest list.",
                "{B} had crossed out the name to hurt {A}.",
                "{B} had skipped a line in copying the list.",
                0,
            ),
            (
                "{B} bumped {A} off the path into a puddle.",
                "{B} had pushed hard and meant to.",
                "{B} had been pushed by a crowd.",
                -1,
            ),
            (
                "{B} did not pass on the message that {A} was waiting for.",
                "{B} had thrown it away with a grin.",
                "{B} had never been given it.",
                0,
            ),
            (
                "{B} woke {A} up with loud music.",
                "{B} had put the speaker at the wall to annoy {A}.",
                "{B} had plugged in the headphones, but they had come loose.",
                -1,
            ),
            (
                "{B} broke the model ship that {A} had built for a year.",
                "{B} had thrown it on the floor to see {A} cry.",
                "{B} had tripped over a cable.",
                1,
            ),
            (
                "{B} locked {A} out of the house.",
                "{B} had heard {A} knock and turned the key.",
                "{B} had thought that {A} was already inside.",
                0,
            ),
        ),
    ),
    Kind(  # unexpected against foreseen
        {"surprise": 8, "excitement": 5, "curiosity": 4, "guilt": 0, "envy": 0, "boredom": 0},
        (
            (
                "All of {A}'s friends were at the door with a cake.",
                "{A} had thought that they were abroad.",
                "{A} had invited them weeks before.",
                0,
            ),
            (
                "{A}'s sister came home from overseas.",
                "She had not told anyone.",
                "{A} had booked the ticket for her.",
                0,
            ),
            (
                "{A} was made head of the team.",
                "{A} had not even known that the post was free.",
                "{A} had been promised the post a year ago.",
                0,
            ),
            (
                "{A} received a parcel with a book in it.",
                "{A} had ordered nothing, and no sender was named.",
                "{A} had ordered it and followed its way online.",
                -1,
            ),
            (
                "{A}'s team won the match.",
                "It had lost all games for two years.",
                "It had won all games for two years.",
                0,
            ),
            (
                "It snowed on the day of {A}'s wedding.",
                "It was the middle of summer.",
                "It was winter, and snow had been forecast all week.",
                1,
            ),
            (
                "A stranger on a train turned out to be {A}'s cousin.",
                "{A} had never heard of a cousin.",
                "The two had arranged to meet there.",
                1,
            ),
            (
                "{A}'s old radio began to play.",
                "It had been dead for years, and nobody had touched it.",
                "{A} had just repaired it and switched it on.",
                -1,
            ),
            (
                "A house in Canada was left to {A} in a will.",
                "{A} had never met the man who left it.",
                "{A} had been told of it long before.",
                1,
            ),
            (
                "The lights in {A}'s flat turned green.",
                "{A} had no idea that they could.",
                "{A} had bought green bulbs and put them in.",
                -1,
            ),
            (
                "{A}'s old teacher sat down at the next table in the cafe.",
                "{A} had believed that the teacher lived in Chile.",
                "The teacher sat there every day at that hour.",
                0,
            ),
            (
                "{A}'s horse came first in the race.",
                "It had come last in every race before.",
                "It had come first in every race before.",
                0,
            ),
        ),
    ),
    Kind(  # a feared outcome averted against one that was never feared
        {"relief": 8, "joy": 6, "gratitude": 3, "guilt": 0, "anger": 0, "envy": 0},
        (
            (
                "The doctor told {A} that the test was fine.",
                "{A} had been sure for weeks of being very ill.",
                "It was a routine test, and {A} had hardly thought of it.",
                1,
            ),
            (
                "{A}'s son came home from school at six.",
                "Nobody had known where he was since noon.",
                "He came home at that time every day.",
                1,
            ),
            (
                "{A} got the car through its inspection.",
                "{A} had been told that it would almost surely fail.",
                "The car was a month old.",
                -1,
            ),
            (
                "{A}'s plane landed in Oslo.",
                "One of the engines had failed on the way.",
                "The flight had been calm and short.",
                1,
            ),
            (
                "{A} found the house keys in {his} bag.",
                "{A} had searched for them half the night.",
                "They were in their usual pocket.",
                -1,
            ),
            (
                "{A} passed the exam.",
                "One more failure would have ended {his} studies.",
                "It was a test for fun that did not count.",
                0,
            ),
            (
                "The storm passed {A}'s village by.",
                "It had been heading straight for it all day.",
                "It had been far out at sea all day.",
                0,
            ),
            (
                "The bank told {A} that no money was missing.",
                "{A} had feared that all {his} savings were gone.",
                "{A} had asked only for a yearly statement.",
                0,
            ),
            (
                "{A}'s name was not on the list of workers to be laid off.",
                "{A} had been told to expect the worst.",
                "{A} owned the firm and had drawn up the list.",
                1,
            ),
            (
                "The brakes of {A}'s car worked.",
                "They had failed twice on the way down the mountain.",
                "They were new and had never failed.",
                0,
            ),
            (
                "{A} got to the station before the train left.",
                "{A} had run all the way and given up hope.",
                "{A} had come an hour early, as always.",
                -1,
            ),
            (
                "The judge let {A} go home.",
                "{A} had feared ten years in prison.",
                "{A} had only come to watch the trial of a stranger.",
                1,
            ),
        ),
    ),
    Kind(  # own effort against chance
        {"pride": 8, "joy": 6, "excitement": 4, "guilt": 0, "anger": 0, "sadness": 0},
        (
            (
                "{A} won first prize at the fair.",
                "{A} had built the winning machine in two years of work.",
                "{A}'s ticket had been drawn from a box.",
                0,
            ),
            (
                "{A} was given a place at a famous school.",
                "{A} had studied every night for it.",
                "The places had been given out by lot.",
                0,
            ),
            (
                "{A}'s photo appeared on the front page.",
                "{A} had waited five nights for that picture.",
                "{A}'s camera had gone off by accident.",
                0,
            ),
            (
                "{A} crossed the finish line first.",
                "{A} had trained for the race for a year.",
                "All the other runners had taken a wrong turn.",
                0,
            ),
            (
                "{A}'s garden was called the finest in town.",
                "{A} had planted every flower in it.",
                "It came with the house, and others looked after it.",
                -1,
            ),
            (
                "The soup that {A} served was praised by everyone.",
                "{A} had worked on the recipe for weeks.",
                "{A} had bought it in a tin.",
                -1,
            ),
            (
                "{A} beat the chess master.",
                "{A} had found a brilliant move.",
                "The master had to leave early and gave up.",
                1,
            ),
            (
                "{A} was praised for speaking Japanese without mistakes.",
                "{A} had learned it alone, in ten years of evenings.",
                "{A} had grown up in Japan.",
                0,
            ),
            (
                "{A} was thanked in front of the whole firm.",
                "{A} had saved it with an idea of {his} own.",
                "{A} had been mistaken for somebody else.",
                0,
            ),
            (
                "{A} stood on the top of the mountain.",
                "{A} had climbed the steepest wall without help.",
                "{A} had taken the cable car.",
                0,
            ),
            (
                "A bridge was named after {A}.",
                "{A} had designed it and led the work on it.",
                "{A} happened to be the thousandth to cross it.",
                1,
            ),
            (
                "{A}'s team got full marks in the quiz.",
                "{A} had known all the answers.",
                "{A} had only kept the score, and the others had answered.",
                -1,
            ),
        ),
    ),
    Kind(  # seen by others against unseen
        {"embarrassment": 8, "sadness": 3, "anger": 2, "joy": 0, "pride": 0, "gratitude": 0},
        (
            (
                "{A} slipped and fell flat into the mud.",
                "The whole school was watching.",
                "There was nobody for miles.",
                0,
            ),
            (
                "{A} noticed that {his} trousers were torn at the back.",
                "{A} had just given a speech to two hundred people.",
                "{A} had been at home alone all day.",
                0,
            ),
            (
                "{A} sang a song badly out of tune.",
                "The microphone was on, and the hall was full.",
                "{A} was alone in the shower.",
                0,
            ),
            (
                "{A} called the new boss by a wrong name.",
                "It was at the boss's welcome party, into a microphone.",
                "It was only in {his} own thoughts.",
                0,
            ),
            (
                "{A} walked into a glass door.",
                "A crowd of guests burst out laughing.",
                "The building was empty.",
                -1,
            ),
            (
                "{A} wrote a love letter.",
                "It was read out to the class.",
                "It stayed in a locked drawer.",
                1,
            ),
            (
                "{A} burst into tears over a film.",
                "{A} sat among colleagues, who turned and stared.",
                "{A} sat alone at home.",
                -1,
            ),
            (
                "{A}'s stomach growled loudly.",
                "It was a silent moment in a packed courtroom.",
                "It was in {his} own kitchen, with nobody in.",
                -1,
            ),
            (
                "{A} forgot the words of the poem.",
                "{A} stood on a stage before five hundred people.",
                "{A} was practising in an empty room.",
                0,
            ),
            (
                "{A} waved at a stranger by mistake.",
                "The stranger asked loudly who {A} was, and everyone turned.",
                "The stranger looked the other way, and nobody saw it.",
                -1,
            ),
            (
                "{A} had spinach between {his} teeth.",
                "{A} found out after an interview on live television.",
                "{A} found out after a meal alone and rinsed it off.",
                -1,
            ),
            (
                "{A}'s chair broke, and {A} landed on the floor.",
                "It was in the middle of a wedding dinner.",
                "It was in the cellar, where nobody else ever went.",
                0,
            ),
        ),
    ),
    Kind(  # help at a cost against none
        {"gratitude": 8, "joy": 5, "relief": 6, "anger": 0, "envy": 0, "boredom": 0},
        (
            (
                "{A} got to the hospital in time.",
                "{B}, a stranger, had carried {him} for an hour.",
                "{A} had driven there alone without trouble.",
                1,
            ),
            (
                "{A}'s roof was repaired before winter.",
                "{B} had done it on free weekends and taken no money.",
                "{A} had done it alone.",
                0,
            ),
            (
                "{A} finished the thesis on the last day.",
                "{B} had stayed up three nights to help.",
                "Nobody had been asked, and nobody had helped.",
                0,
            ),
            (
                "{A} got the lost purse back.",
                "{B} had walked across town in the rain to bring it.",
                "{A} found it under {his} own bed.",
                0,
            ),
            (
                "{A} moved into the new flat in one day.",
                "{B} had given up a holiday to carry boxes.",
                "{A} owned so little that one trip was enough.",
                0,
            ),
            (
                "{A} got out of the icy lake alive.",
                "{B} had jumped in without a thought to save {him}.",
                "{A} had climbed out on {his} own.",
                1,
            ),
            (
                "{A} had a hot meal after the long march.",
                "{B} had shared the last food with {him}.",
                "{A} had cooked what was in {his} own bag.",
                -1,
            ),
            (
                "{A} was able to pay the rent.",
                "{B} had sold a watch to lend {him} the money.",
                "{A} had earned enough that month.",
                0,
            ),
            (
                "{A}'s stolen violin was back.",
                "{B} had searched the pawn shops of three cities for it.",
                "The thief had left it behind on the stairs.",
                0,
            ),
            (
                "{A} passed the driving test.",
                "{B} had given up every Sunday to teach {him} for free.",
                "{A} had practised alone on {his} own farm.",
                0,
            ),
            (
                "{A} had a place to sleep after the flood.",
                "{B} had moved to the sofa and given {him} the only bed.",
                "{A} had a second house on the hill.",
                1,
            ),
            (
                "{A}'s broken-down van was running again.",
                "{B}, who was passing, had worked on it for four hours.",
                "{A} had let the engine cool down and started it again.",
                -1,
            ),
        ),
    ),
    Kind(  # danger close against danger kept away
        {"fear": 8, "surprise": 4, "anger": 2, "joy": 0, "pride": 0, "gratitude": 0},
        (
            (
                "A big dog growled at {A}.",
                "It was loose and came closer.",
                "It was behind a high wall, chained up.",
                0,
            ),
            (
                "{A} saw a bear.",
                "It stood in front of {his} tent.",
                "It was asleep in its cage at the zoo.",
                1,
            ),
            (
                "{A} heard steps at night.",
                "{A} was alone in the house, and a window had just been broken.",
                "They were only those of {his} family coming home.",
                0,
            ),
            (
                "A fire broke out in the forest.",
                "It had already cut off the road to {A}'s hut.",
                "{A} read of it in a paper from another continent.",
                1,
            ),
            (
                "{A} looked down from a great height.",
                "{A} hung on a rope that was beginning to tear.",
                "{A} stood behind thick glass in a tower.",
                1,
            ),
            (
                "{A} was told of a tumour.",
                "It was {his} own, and growing.",
                "It was in an old lecture, a case from a textbook.",
                1,
            ),
            (
                "A snake lay in the grass.",
                "It was inches from {A}'s bare foot and ready to strike.",
                "{A} saw it on television.",
                0,
            ),
            (
                "The waves were as high as houses.",
                "{A} was out in a small boat that took in water.",
                "{A} watched from a cliff far above.",
                0,
            ),
            (
                "The lift that {A} used every day stopped between two floors.",
                "{A} was in it, and a cable had begun to snap.",
                "It was empty, and {A} read of it on a notice.",
                0,
            ),
            (
                "A man with a knife was in the supermarket.",
                "He was running straight at {A}.",
                "{A} heard of it a year after his arrest.",
                1,
            ),
            (
                "The ice on the lake cracked.",
                "{A} was standing in the middle of it.",
                "{A} was watching from a warm cafe on the shore, and nobody was on it.",
                1,
            ),
            (
                "{A} looked at a wasps' nest.",
                "The wasps were out and coming at {his} face.",
                "It had been empty for years and hung in a museum.",
                -1,
            ),
        ),
    ),
    Kind(  # hoped for against not cared about
        {"disappointment": 8, "sadness": 5, "anger": 3, "joy": 0, "pride": 0, "gratitude": 0},
        (
            (
                "The concert was called off.",
                "{A} had looked forward to it for a year.",
                "{A} had not wanted to go anyway.",
                0,
            ),
            (
                "{A} did not get the role in the play.",
                "{A} had dreamed of it since childhood.",
                "{A} had only come along to keep {B} company.",
                0,
            ),
            (
                "The letter for {A} was a rejection.",
                "It was from the one school {A} had set {his} heart on.",
                "It was from a school {A} had already turned down.",
                0,
            ),
            (
                "The trip to the coast was cancelled.",
                "{A} had saved up for it for three years.",
                "{A} had been sent along by the office against {his} will.",
                0,
            ),
            (
                "The cake was gone when {A} came to the table.",
                "{A} had thought of nothing else all day.",
                "{A} does not eat cake.",
                -1,
            ),
            (
                "{B} did not come to {A}'s party.",
                "{A} had arranged it all for {B}'s sake.",
                "{A} had hoped that {B} would stay away.",
                0,
            ),
            (
                "{A} lost the election.",
                "{A} had given up everything to win it.",
                "{A} had never wanted the office and had hoped to lose.",
                1,
            ),
            (
                "The shop had sold out of the blue lamp.",
                "{A} had crossed the country to buy it.",
                "{A} had come to buy a broom.",
                -1,
            ),
            (
                "{A}'s team did not reach the final.",
                "{A} had lived for that final all year.",
                "{A} had never cared for the sport.",
                0,
            ),
            (
                "The museum was closed when {A} got there.",
                "{A} had flown in for one picture that hangs there.",
                "{A} had only wanted to ask the way.",
                0,
            ),
            (
                "{A} was not asked to join the band.",
                "{A} had practised for it day after day.",
                "{A} had tried out only because of a lost bet, and did not want to join.",
                0,
            ),
            (
                "There was no strawberry ice cream left for {A}.",
                "{A} had looked forward to it all week.",
                "{A} cannot stand strawberries.",
                -1,
            ),
        ),
    ),
    Kind(  # lost for good against got back
        {"sadness": 8, "anger": 3, "fear": 2, "joy": 0, "pride": 0, "relief": 0},
        (
            (
                "{A}'s cat was hit by a car.",
                "It died that evening.",
                "It was back on its feet that evening.",
                1,
            ),
            (
                "The flood swept away {A}'s photos of {his} mother.",
                "They were never found, and there are no others.",
                "They were found dry and whole the next day.",
                0,
            ),
            (
                "{A}'s best friend moved abroad.",
                "They never saw each other again.",
                "A week later the friend moved back.",
                0,
            ),
            (
                "The tree that {A} had planted as a child was struck by lightning.",
                "It burned to the ground.",
                "It lost a few leaves and went on growing.",
                -1,
            ),
            (
                "{A} lost the ring of {his} late father.",
                "It had fallen into the sea.",
                "It turned up within the hour.",
                0,
            ),
            (
                "{A}'s grandmother was taken to hospital.",
                "She did not live to see the morning.",
                "She was home by the evening, well and laughing.",
                1,
            ),
            (
                "{A}'s village school was to be closed.",
                "It was torn down that summer.",
                "The plan was dropped, and it stayed.",
                -1,
            ),
            (
                "{A}'s horse ran away.",
                "It was found dead in a ravine.",
                "It was back in the stable by noon.",
                1,
            ),
            (
                "{A}'s only copy of the family letters was left on a bus.",
                "It was never seen again.",
                "The driver brought it to {A}'s door within the hour.",
                0,
            ),
            (
                "{A}'s parrot, a friend of thirty years, fell ill.",
                "It did not recover.",
                "It was well again two days later.",
                1,
            ),
            (
                "The house where {A} had grown up was for sale.",
                "It was pulled down soon after.",
                "{A}'s own brother bought it, and nothing changed.",
                0,
            ),
            (
                "{A}'s oldest colleague had a heart attack.",
                "The colleague died in the ambulance.",
                "The colleague was soon back at work, fit as ever.",
                1,
            ),
        ),
    ),
)

# Neither these nor what was felt before may name a season, an hour or the weather: cases do, and
# would contradict them.
_SCENES = (
    *("It was a Tuesday.", "It was a Thursday.", "The calendar showed the seventeenth."),
    *("It was the second week of the month.", "The price of bread had just gone up."),
    *("The capital had a new mayor.", "A new spacecraft was on its way to Mars."),
    *("Everybody was talking about a new novel.", "The papers were full of a new opera."),
)
# Something else that was felt a few days before, the same in both versions.
_BEFORE = (
    "The day before, {A} had found a coin in the street.",
    "The day before, {A} had argued with a neighbour about the bins.",
    "Two days before, {A} had laughed at a joke in the paper.",
    "The week before, {A} had slept badly because of a dripping tap.",
    "Two days before, {A} had been stuck in traffic.",
    "The week before, {A} had had good news about a friend.",
)
_FEELS = (
    "How does {A} feel about it?",
    "What does {A} feel about this?",
    "What did it make {A} feel?",
)


def references(kind: Kind, weight: int) -> dict[str, int]:
    """The ratings of an event of a weight: what is felt at all is felt more if it weighs more."""
    return {name: rating and min(rating + weight, HIGHEST) for name, rating in kind.felt.items()}


def topics(level: int) -> tuple[str, ...]:  # noqa: ARG001 - as in the other families
    """The topics of a level. Contrasts, which need no norm, are asked twice as often as ratings."""
    return ("contrast", "ratings", "contrast")


def make(rng: random.Random, place: Place) -> Item:
    """One item. Kinds and cases go round with the index, and so does the version that has more.

    Only the place's share of the cases of each kind is told, also as what happened to others.
    """
    topic, level, index, share = place.topic, place.level, place.index, place.share
    turn, which = divmod(index, len(KINDS))
    kind = KINDS[which]
    cases = kind.cases[share]
    tell = _Teller(rng, level)
    if topic == "ratings":
        case = cases[(turn + 2) % len(cases)]
        beside = rng.choice(rng.choice([k for k in KINDS if k is not kind]).cases[share])
        felt = references(kind, case[3])
        main, *names = felt
        mild, absent = rng.sample(names[:2], 2), rng.sample(names[2:], 2)
        emotions = [main, mild[0], absent[0], (absent if index % 2 else mild)[1]]
        rng.shuffle(emotions)
        return Ratings(
            id=place.name,
            family=FAMILY,
            topic=topic,
            level=level,
            question=tell(case, beside, strong=True, question=rng.choice(_FEELS), last=True),
            emotions=tuple(emotions),
            reference=tuple(felt[e] for e in emotions),
        )
    round_, nth = divmod(turn, len(cases))
    case = cases[nth]
    beside = rng.choice([c for c in cases if c is not case])
    ask = f"How much {kind.emotion} does {{A}} feel?"
    versions = [tell(case, beside, strong=strong, question=ask) for strong in (True, False)]
    # A case that comes again comes in the other order.
    first = (index + turn + round_) % 2 == 0
    return Contrast(
        id=place.name,
        family=FAMILY,
        topic=topic,
        level=level,
        question=versions[not first],
        other=versions[first],
        emotion=kind.emotion,
        higher="question" if first else "other",
    )


class _Teller:
    """Tells cases with one set of names and one setting, so that versions differ in nothing else.

    Level 0 is the bare case; 1 has a setting; 2 another feeling of the days before; at 3 somebody
    else has gone through a case of the opposite version, and must not be mixed up.
    """

    def __init__(self, rng: random.Random, level: int) -> None:
        self._people = rng.sample(SHE + HE, 4)
        self._scene = rng.choice(_SCENES)
        self._before = rng.choice(_BEFORE)
        self._other_first = rng.random() < 0.5  # noqa: PLR2004 - a coin
        self._level = level

    def __call__(
        self, case: _Case, beside: _Case, *, strong: bool, question: str, last: bool = False
    ) -> str:
        """The text; with `last` the case comes last, for a question that says no more than "it"."""
        a, b, c, d = self._people
        told = [_told(case, a, b, strong=strong)]
        if self._level in {1, 2}:
            told.insert(0, self._scene)
        if self._level == 2:  # noqa: PLR2004 - a level
            told.insert(1, self._before.format(A=a))
        if self._level >= 3:  # noqa: PLR2004 - a level
            told.insert(
                0 if last or self._other_first else 1, _told(beside, c, d, strong=not strong)
            )
        return " ".join([*told, question.format(A=a)])


def _told(case: _Case, a: str, b: str, *, strong: bool) -> str:
    him, his = ("her", "her") if a in SHE else ("him", "his")
    return f"{case[0]} {case[1 if strong else 2]}".format(A=a, B=b, him=him, his=his)
