"""The clients of `benchmarks.serving`, in locust's words: run by it in locust's own environment, not by hand.

Each client asks one question after the other. Where it is refused it waits as long as it is told to and asks again.
Every attempt has an id of its own and leaves one line: what it asked, what came back, when, and by which run.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from pathlib import Path

from locust import HttpUser, constant, task

QUESTIONS = Path(os.environ["JADE_QUESTIONS"]).read_text(encoding="utf-8").splitlines()
OPTIONS = json.loads(os.environ["JADE_OPTIONS"])
ATTEMPTS = Path(os.environ["JADE_ATTEMPTS"])
LOAD = os.environ["JADE_LOAD"]
BUSY = 429
_numbers = itertools.count()


class Asker(HttpUser):
    """One client."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Take a number."""
        self.number, self.asked = next(_numbers), itertools.count()

    @task
    def ask(self) -> None:
        """Ask one question until it is answered, or fails otherwise than by a refusal."""
        question = QUESTIONS[(self.number * 31 + next(self.asked)) % len(QUESTIONS)]
        while True:
            pause = self.attempt(question)
            if pause is None:
                return
            time.sleep(pause * random.uniform(1.0, 1.5))

    def attempt(self, question: str) -> float | None:
        """Ask once; return the seconds to wait before the next attempt, or None when there is none to make."""
        name = f"{LOAD}-{self.number}-{next(self.asked)}"
        began, clock = time.time(), time.perf_counter()
        body = {**OPTIONS, "question": question, "question_id": name}
        with self.client.post("/ask", json=body, timeout=600, catch_response=True) as response:
            seconds = time.perf_counter() - clock
            run = response.json().get("run") if response.status_code == 200 else None
            if response.status_code in (200, BUSY):
                response.success()
        line = {"id": name, "status": response.status_code, "run": run, "began": began, "seconds": seconds}
        with ATTEMPTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return float(response.headers["Retry-After"]) if response.status_code == BUSY else None
