"""How sure one may be that a passage answers a question, from what the two have in common.

Five quantities decide, none of them alone:

* *coverage*: the share of the question's information that the passage has. It is low when the most
  telling word is missing, such as the name of something that is in no passage.
* *evidence*: how much information they share, 1.0 being as much as it takes to single out one
  passage of the index. It is low when only words match that many passages have.
* *absence*: how many words of the question the passage lacks although other passages have them. It
  is high when the name is found, but not what was asked about it.
* *untold*: how surely something is asked for (`senses`) that the passage does not tell.
* *foreign*: whether its heading names another subject (`naming`), or nothing of it names the one
  that is asked about.

Words weigh by rarity in coverage and evidence, and generic ones less in coverage and absence. One
that is only alike counts by the square of its likeness: different names that are near each other
resemble each other by half, misheard ones by more. The confidence is a logistic function of these,
fitted by `benchmarks/confidence.py` to questions at 0 to 30 % word error of which some have an
answer; the others ask for known properties of things that are not there, or for others of things
that are. The last ones pull hard at *untold*, which misheard questions then suffer from: the
constants lie between the fits with and without them.
"""

from __future__ import annotations

import math

BIAS = -5.20
PER_COVERAGE = 5.00
PER_EVIDENCE = 2.15
PER_ABSENCE = -0.50
PER_UNTOLD = -1.65
FOREIGN = -4.55
MAX_EVIDENCE = 3.0
MAX_ABSENCE = 2.0
"""People also say what has nothing to do with their question."""
GENERIC_WORTH = 0.3
"""Weight of a word like "time" or "place": that a passage lacks it says little."""
ASKING_WORTH = 0.05
"""Weight of a word that only belongs to the asking, such as "remind", where no passage has it."""


def confidence(
    coverage: float,
    evidence: float,
    absence: float,
    untold: float = 0.0,
    foreign: bool = False,
) -> float:
    """Probability in (0, 1) that the passage is the one asked for."""
    logit = (
        BIAS
        + PER_COVERAGE * coverage
        + PER_EVIDENCE * min(evidence, MAX_EVIDENCE)
        + PER_ABSENCE * min(absence, MAX_ABSENCE)
        + PER_UNTOLD * min(untold, 1.0)
        + FOREIGN * foreign
    )
    return 1.0 / (1.0 + math.exp(-logit))
