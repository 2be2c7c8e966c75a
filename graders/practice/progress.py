"""What the history says of a kata: its state, how often and how fast it was done, and when it is due again.

Pure functions on the history's records; what they give is never stored. When a kata is due is found by replaying its
reviews through FSRS (the `fsrs` package, in days: no steps within one, no random shift). A review is

- a timed round of all levels: passed without a hint it is Easy if it began from the stub and took at most 60 % of its
  minutes, else Good; with a hint it is Hard; out of time or stopped it is Again. A round that was stopped before
  anything was written is none, and one that was interrupted (its process was killed) says nothing of the person;
- a day's first pass of all levels outside of rounds: Good, or Hard if there was a hint since the last review;
- giving up outside of rounds: Again.

A text that has passed before is no practice when it passes again, in a round or outside. What was graded in debugging
drills is another's code: it counts nowhere here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graders.catalogue import Kata, katas
from graders.history import Event, History, Round, Run
from graders.practice.rounds import personal_best

QUICK = 0.6  # of the round's time
UNGRADED = ("error", "not started", "not graded")
AGAIN, HARD, GOOD, EASY = RATINGS = ("Again", "Hard", "Good", "Easy")


@dataclass(frozen=True)
class Review:
    """One recall of a kata, and how it went: Again, Hard, Good or Easy."""

    at: float
    rating: str


@dataclass(frozen=True)
class Progress:
    """A kata in one framework. state: new, started, passed, or failing again (it passed, and its last run did not).

    attempts: graded runs in which something was written. best: seconds of the personal best.
    last, due: seconds since 1970, or None.
    """

    kata: str
    framework: str
    state: str
    attempts: int
    best: float | None
    last: float | None
    due: float | None

    def is_due(self, now: float) -> bool:
        """From the beginning of the day on which it is due."""
        return self.due is not None and day(self.due) <= day(now)


def overview(history: History, found: Iterable[Kata] | None = None) -> list[Progress]:
    """Each kata in every framework in which it was practised, or in its first."""
    runs, rounds, events = history.runs(), history.rounds(), history.events()
    rows = []
    for kata in katas() if found is None else found:
        practised: list[Run | Round] = [*own(runs, rounds), *timed(rounds)]
        touched = {record.framework for record in practised if record.kata == kata.name}
        offered = [f for f in kata.frameworks if f in touched] or [kata.frameworks[0]]
        for framework in offered:
            mine = [_of(each, kata.name, framework) for each in (runs, rounds, events)]
            rows.append(progress(kata.name, framework, *mine))
    return rows


def progress(
    kata: str, framework: str, runs: Sequence[Run], rounds: Sequence[Round], events: Sequence[Event]
) -> Progress:
    """From the records of one kata in one framework, oldest first."""
    graded = [run for run in own(runs, rounds) if run.outcome not in UNGRADED]
    best = personal_best(rounds, own(runs, rounds))
    moments = [run.at for run in graded] + [round.ended or round.began for round in timed(rounds)]
    return Progress(
        kata,
        framework,
        state=_state(graded),
        attempts=len(graded),
        best=best.active if best else None,
        last=max(moments, default=None),
        due=due(reviews(runs, rounds, events)),
    )


def reviews(runs: Sequence[Run], rounds: Sequence[Round], events: Sequence[Event]) -> list[Review]:
    """The recalls of one kata in one framework, oldest first."""
    runs, rounds = own(runs, rounds), timed(rounds)
    rated = [(round.ended, _rating(round, runs, events)) for round in rounds]
    found = [Review(at, rating) for at, rating in rated if at and rating]
    first = _first_passes(runs)
    outside: list[Run | Event] = [run for run in first.values() if run.round is None]
    outside += [event for event in events if event.kind == "give-up" and event.round is None]
    for item in sorted(outside, key=lambda item: item.at):
        during = any(round.began <= item.at <= (round.ended or item.at) for round in rounds)
        if during or any(day(review.at) == day(item.at) and review.at <= item.at for review in found):
            continue
        before = max((review.at for review in found if review.at <= item.at), default=0.0)
        hinted = any(event.kind == "hint" and before < event.at <= item.at for event in events)
        found.append(Review(item.at, AGAIN if isinstance(item, Event) else HARD if hinted else GOOD))
    return sorted(found, key=lambda review: review.at)


def due(reviews: Sequence[Review]) -> float | None:
    """When the next recall is due; None without a review."""
    from fsrs import Card, Rating, Scheduler

    scheduler = Scheduler(learning_steps=(), relearning_steps=(), enable_fuzzing=False)
    card = Card(card_id=1)
    for review in reviews:
        rating = Rating(RATINGS.index(review.rating) + 1)
        card, _ = scheduler.review_card(card, rating, datetime.fromtimestamp(review.at, UTC))
    return card.due.timestamp() if reviews else None


def day(at: float) -> int:
    """The number of the day in local time."""
    return datetime.fromtimestamp(at).toordinal()


def own(runs: Sequence[Run], rounds: Sequence[Round]) -> list[Run]:
    """The runs of the person's own code: none that graded the file of a drill."""
    drilled = {Path(round.attempt) for round in rounds if round.kind == "drill"}
    return [run for run in runs if run.origin != "debug" and Path(run.attempt) not in drilled]


def timed(rounds: Sequence[Round]) -> list[Round]:
    return [round for round in rounds if round.kind == "timed"]


def _of(records: Sequence[Any], kata: str, framework: str) -> list[Any]:
    return [record for record in records if (record.kata, record.framework) == (kata, framework)]


def _state(graded: Sequence[Run]) -> str:
    passes = [i for i, run in enumerate(graded) if run.passed]
    if not passes:
        return "started" if graded else "new"
    later = graded[passes[-1] + 1 :]
    return "failing again" if any(run.outcome == "failed" for run in later) else "passed"


def _rating(round: Round, runs: Sequence[Run], events: Sequence[Event]) -> str | None:
    mine = [run for run in runs if run.round == round.id]
    if round.outcome == "passed":
        if not _is_fresh(round, runs):
            return None
        if any(event.kind == "hint" and event.round == round.id for event in events):
            return HARD
        quick = round.active <= QUICK * 60 * round.minutes and round.detail.get("from_stub")
        return EASY if quick else GOOD
    if round.outcome == "stopped" and not any(run.outcome not in UNGRADED for run in mine):
        return None
    return AGAIN if round.outcome in ("out of time", "stopped") else None


def _is_fresh(round: Round, runs: Sequence[Run]) -> bool:
    """Whether the text with which a round was passed had not passed before it."""
    first = _first_passes(runs)
    mine = [run for run in runs if run.round == round.id and run.passed]
    return all(first[run.source].at >= round.began for run in mine)


def _first_passes(runs: Sequence[Run]) -> dict[str, Run]:
    """For each text that passed, the run in which it did first."""
    first: dict[str, Run] = {}
    for run in runs:
        if run.passed:
            first.setdefault(run.source, run)
    return first
