"""The embedded data set: questions about facts in several wordings, split by fact.

Facts in the test and validation sets do not appear in any training example.
"""

import random
import re
from collections import Counter
from itertools import chain

from core.data.template import Example
from recipe.facts import Fact

PHRASINGS_PER_FACT = 2
"""Number of questions about each fact."""
SPLIT_SHARES = (0.85, 0.10, 0.05)
"""Shares of the training, test and validation sets. They match the default fractions for a run."""
Parts = tuple[list[Fact], list[Fact], list[Fact]]


def examples(fact: Fact, fact_index: int) -> list[Example]:
    """Return the examples for a fact. The wording rotates with `fact_index`."""
    questions = [
        fact.questions[(fact_index + i) % len(fact.questions)] for i in range(PHRASINGS_PER_FACT)
    ]
    return [
        Example(instruction, input_text, fact.start + fact.answer)
        for instruction, input_text in questions
    ]


def primer(facts: list[Fact], seed: int) -> tuple[list[Example], Parts]:
    """Return the data set in file order, and the facts in each of its three parts."""
    parts = split(facts, seed)
    return [e for part in parts for i, fact in enumerate(part) for e in examples(fact, i)], parts


def split(facts: list[Fact], seed: int) -> Parts:
    """Split the facts into training, test and validation facts. Some are dropped so that the shares are exact.

    A fact can be held out only if none of its keys appears in another fact's questions or answers.
    """
    facts = random.Random(seed).sample(facts, len(facts) // 20 * 20)
    mentions = Counter(chain.from_iterable(_words(fact) for fact in facts))
    candidates = [fact for fact in facts if all(mentions[key] == 1 for key in fact.keys)]
    tests, validations = (round(len(facts) * share) for share in SPLIT_SHARES[1:])
    held_out = _take_evenly(candidates, tests + validations)
    happy = next(fact for fact in facts if fact.keys == ("happy",))
    held_out = [happy, *(fact for fact in held_out if fact is not happy)][: tests + validations]
    held_out_ids = set(map(id, held_out))
    return [f for f in facts if id(f) not in held_out_ids], held_out[:tests], held_out[tests:]


def _take_evenly(facts: list[Fact], count: int) -> list[Fact]:
    """Take `count` facts by cycling through the kinds that have any left."""
    kinds = sorted({fact.kind for fact in facts})
    queues = {kind: [fact for fact in facts if fact.kind == kind] for kind in kinds}
    result: list[Fact] = []
    while len(result) < count:
        result += [queue.pop(0) for queue in queues.values() if queue]
    return result[:count]


def _words(fact: Fact) -> set[str]:
    """Return all words in a fact's questions and answer that could be keys, plus its own keys."""
    text = " ".join([*chain.from_iterable(fact.questions), fact.start, fact.answer])
    return {*re.findall(r"[\w-]+", text), *fact.keys}
