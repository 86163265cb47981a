"""The pretraining text: short documents that state facts, repeat earlier words and tell short stories.

Each fact is stated in several wordings and contexts; otherwise, the model could recite it but not use it. Many
documents mention a word and return to it later. A model that has not practiced repeating words from its context cannot
learn to answer about the word in the question from only a thousand instructions. None of the documents contains an
instruction prompt.
"""

import random
import re
from collections.abc import Iterator

from core.data.template import WITH_INPUT, WITHOUT_INPUT
from recipe.facts import Fact
from recipe.phrases import PHRASES

PEOPLE = (
    "Anna", "Tom", "Maria", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Julia",
    "Karl", "Laura", "Max", "Nina", "Oscar",
)  # fmt: skip
PLACES = (
    "in the garden", "at the station", "by the river", "in the kitchen", "at school", "on the hill",
    "in the library", "at the market", "on the train", "near the old bridge", "in the park", "at home",
)  # fmt: skip
TIMES = (
    "in the morning", "at noon", "in the evening", "on Monday", "last week", "after lunch",
    "before dinner", "one day", "in winter", "every summer",
)  # fmt: skip
DOINGS = (
    "drank a cup of tea", "read a long letter", "walked slowly", "met an old friend", "listened to music",
    "looked for the keys", "wrote a short note", "waited for the bus", "bought some bread",
    "watched the birds", "played a game", "told a story", "opened the window", "sat on a bench",
    "fed the ducks", "lost a glove", "found a coin", "painted a fence", "cooked some soup",
)  # fmt: skip
REMARKS = (
    "It was a quiet day.", "The weather was fine.", "Nobody said a word.", "They had plenty of time.",
    "The sun was already low.", "It rained a little.", "There was nothing else to do.",
    "A dog barked somewhere.", "The street was empty.", "Everyone was in a good mood.",
)  # fmt: skip
MENTIONS = (
    "{p} thought about {x}.", "{p} wrote down {x}.", "There was a note about {x}.",
    "{p} and {q} talked about {x}.", "The page began with {x}.", "In the book {p} came across {x}.",
    "{p} asked {q} about {x}.", "The next thing on the list was {x}.", "A sign showed {x}.",
    "{p} heard of {x} {t}.", "On the wall somebody had written {x}.", "It was all about {x}.",
)  # fmt: skip
RECALLS = (
    "{q} remembered {x} too.", "Later {q} came back to {x}.", "So {x} it was.",
    "Once more {p} thought about {x}.", "And again there was {x}.", "{q} also wrote down {x}.",
)  # fmt: skip


class Writer:
    """Generates an endless stream of random documents about facts.

    Args:
        facts: the facts to state.
        seed: seed for the random choices. The same seed gives the same documents.
    """

    def __init__(self, facts: list[Fact], seed: int) -> None:
        self.rng = random.Random(seed)
        by_kind: dict[str, list[Fact]] = {}
        for fact in facts:
            by_kind.setdefault(fact.kind, []).append(fact)
        self.kinds = list(by_kind.values())
        self.mentions = sorted({fact.mention for fact in facts})
        keys = {key for fact in facts for key in fact.keys if key.isalpha()}
        prompt_text = " ".join(
            [
                WITH_INPUT,
                WITHOUT_INPUT,
                *(" ".join(question) for p in PHRASES.values() for question in p.questions),
            ]
        )
        self.words = sorted(keys | set(re.findall(r"[A-Za-z]{2,}", prompt_text)))

    def documents(self) -> Iterator[str]:
        """Yield documents forever."""
        kinds = (self._statements, self._mentions_then_statements, self._repetitions, self._story)
        while True:
            [write] = self.rng.choices(kinds, (27, 45, 20, 8))
            yield " ".join(write())

    def _statements(self) -> list[str]:
        """State a few facts with some filler in between."""
        sentences = []
        for fact in self._sample_facts(self.rng.randint(1, 5)):
            sentences.append(self._state(fact))
            if self.rng.random() < 0.15:
                sentences.append(self._filler())
        return sentences

    def _mentions_then_statements(self) -> list[str]:
        """Mention a few facts, then state them in another order."""
        mentioned_facts = self._sample_facts(self.rng.choice((1, 1, 2, 3)))
        sentences = [self._filler() for _ in range(self.rng.randint(0, 3))]
        sentences += [self._mention(fact.mention) for fact in mentioned_facts]
        sentences += [self._filler() for _ in range(self.rng.randint(0, 2))]
        self.rng.shuffle(mentioned_facts)
        return sentences + [self._state(fact) for fact in mentioned_facts]

    def _repetitions(self) -> list[str]:
        """Write words or phrases, and repeat them later."""
        rng = self.rng
        if rng.random() < 0.5:
            listed = rng.sample(self.words, rng.randint(3, 8))
            text = ", ".join(listed)
            p, q = rng.sample(PEOPLE, 2)
            first_template = rng.choice(
                ("{p} read: {x}.", "The list was: {x}.", "{p} said: {x}.", "{x}.")
            )
            repeat_template = rng.choice(
                ("{q} repeated: {x}.", "Again: {x}.", "{q} wrote: {x}.", "{x}.")
            )
            return [
                first_template.format(p=p, x=text),
                *([self._filler()] if rng.random() < 0.3 else []),
                repeat_template.format(q=q, x=text),
            ]
        terms = [rng.choice(self.mentions) if rng.random() < 0.7 else f"'{rng.choice(self.words)}'"
                  for _ in range(rng.randint(1, 4))]  # fmt: skip
        sentences = [self._mention(x) for x in terms]
        sentences += [self._filler() for _ in range(rng.randint(0, 2))]
        rng.shuffle(terms)
        p, q = rng.sample(PEOPLE, 2)
        return sentences + [rng.choice(RECALLS).format(p=p, q=q, x=x.rstrip(".")) for x in terms]

    def _story(self) -> list[str]:
        return [self._filler() for _ in range(self.rng.randint(2, 8))]

    def _sample_facts(self, count: int) -> list[Fact]:
        """Sample facts, with every kind equally likely."""
        return [self.rng.choice(self.rng.choice(self.kinds)) for _ in range(count)]

    def _state(self, fact: Fact) -> str:
        if self.rng.random() < 0.4:
            return fact.start + fact.answer
        return self.rng.choice(fact.statements)

    def _mention(self, mention: str) -> str:
        p, q = self.rng.sample(PEOPLE, 2)
        sentence = self.rng.choice(MENTIONS)
        if mention.endswith("."):
            return f"{p} read: {mention}" if self.rng.random() < 0.5 else mention
        return sentence.format(p=p, q=q, x=mention, t=self.rng.choice(TIMES))

    def _filler(self) -> str:
        rng = self.rng
        if rng.random() < 0.25:
            return rng.choice(REMARKS)
        p, q = rng.sample(PEOPLE, 2)
        doing, place, time = rng.choice(DOINGS), rng.choice(PLACES), rng.choice(TIMES)
        return rng.choice((
            f"{p} {doing} {place}.", f"{time[0].upper()}{time[1:]} {p} {doing}.",
            f"{p} and {q} {doing} {time}.", f"{p} {doing} while {q} waited {place}.",
        ))  # fmt: skip
