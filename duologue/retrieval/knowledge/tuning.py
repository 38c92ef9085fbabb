"""Knobs of the search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Knobs of the matcher. Recall on the benchmark is flat around the defaults.

    `fuzzy` switches likeness on. `letter_threshold`: least share of common trigrams. The weights
    say how much a word counts that only looks or sounds alike (`likeness_weight`, times
    `known_word_factor` when the index has the word as it was said) or that is read as one with its
    neighbours (`joined_weight`, from `joined_threshold` on). `coverage_weight`: what a passage
    loses for the part of the question it lacks. `neighbor_weight`: what it gains for words that
    stand next to each other in both. `sense_weight`: how much telling what is asked for counts
    beside having the words, 0 switches senses off; `small_talk`: what words that say little lose
    where it is clear what is asked for; `foreign_loss`: what a passage loses that is about another
    subject; `confidence_weight`: what it gains for how sure an answer it would be.
    """

    fuzzy: bool = True
    letter_threshold: float = 0.34
    likeness_weight: float = 0.85
    known_word_factor: float = 0.3
    joined_threshold: float = 0.55
    joined_weight: float = 0.6
    coverage_weight: float = 0.3
    neighbor_weight: float = 0.5
    sense_weight: float = 0.8
    small_talk: float = 0.6
    foreign_loss: float = 0.15
    confidence_weight: float = 1.0
