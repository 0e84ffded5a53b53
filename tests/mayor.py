"""One question of two hops, and a script that answers it under every plan."""

from __future__ import annotations

from tests.scripted import says

QUESTION = "Who is the mayor of Salzburg?"
ANSWER = "Bernhard Auinger of the city"
SCRIPT = says(
    planner="R,AG",
    answer_generator=ANSWER,
    serial_decomposer="<q1>Where was Mozart born?</q1><q2>Who is the mayor of #1?</q2>",
    answer_summariser="all in all",
)
