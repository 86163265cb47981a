"""The embedded data set: facts asked in several ways, split by fact.

What the test and validation sets ask about occurs in no training example.
"""

import random
import re
from collections import Counter
from itertools import chain

from core.data.template import Example
from recipe.facts import Fact

PHRASINGS_PER_FACT = 2
"""Ways in which each fact is asked."""
SPLIT_SHARES = (0.85, 0.10, 0.05)
"""Shares of training, test and validation: those by which a data set is split."""
Parts = tuple[list[Fact], list[Fact], list[Fact]]


def examples(fact: Fact, fact_index: int) -> list[Example]:
    """A fact asked in two of its wordings; which ones depends on its place."""
    questions = [
        fact.questions[(fact_index + i) % len(fact.questions)] for i in range(PHRASINGS_PER_FACT)
    ]
    return [
        Example(instruction, input_text, fact.start + fact.answer)
        for instruction, input_text in questions
    ]


def primer(facts: list[Fact], seed: int) -> tuple[list[Example], Parts]:
    """The data set in file order, and the facts of its three parts."""
    parts = split(facts, seed)
    return [e for part in parts for i, fact in enumerate(part) for e in examples(fact, i)], parts


def split(facts: list[Fact], seed: int) -> Parts:
    """Training, test and validation facts, kinds mixed, as many as make even shares.

    Held out are facts none of whose keys occurs in what any other fact asks or answers.
    """
    facts = random.Random(seed).sample(facts, len(facts) // 20 * 20)
    mentioned = Counter(chain.from_iterable(_words(fact) for fact in facts))
    free = [fact for fact in facts if all(mentioned[key] == 1 for key in fact.keys)]
    tests, validations = (round(len(facts) * share) for share in SPLIT_SHARES[1:])
    held_out = _spread(free, tests + validations)
    happy = next(fact for fact in facts if fact.keys == ("happy",))
    held_out = [happy, *(fact for fact in held_out if fact is not happy)][: tests + validations]
    held_out_ids = set(map(id, held_out))
    return [f for f in facts if id(f) not in held_out_ids], held_out[:tests], held_out[tests:]


def _spread(facts: list[Fact], count: int) -> list[Fact]:
    """So many facts, a kind after the other in turn while it has any."""
    kinds = sorted({fact.kind for fact in facts})
    queues = {kind: [fact for fact in facts if fact.kind == kind] for kind in kinds}
    result: list[Fact] = []
    while len(result) < count:
        result += [queue.pop(0) for queue in queues.values() if queue]
    return result[:count]


def _words(fact: Fact) -> set[str]:
    """Everything that could be a key in what a fact asks and answers."""
    text = " ".join([*chain.from_iterable(fact.questions), fact.start, fact.answer])
    return {*re.findall(r"[\w-]+", text), *fact.keys}
