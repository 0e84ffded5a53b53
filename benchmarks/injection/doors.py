"""The other doors: HTTP with both its faces, files that are indexed, and what the terminal shows of it all."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from agents.documents import read_documents
from agents.errors import ConfigError
from benchmarks.injection.cases import Case
from benchmarks.injection.prompts import hidden
from cli.render import answer_view, run_view, runs_table
from cli.runs import row
from cli.terminal import note, show, show_error, warn
from graphs.question import MAX_QUESTION_CHARACTERS
from graphs.trajectory import Trajectory
from tests.serving_toy import Toy, calling

JOINERS = "\u200c\u200d" + "".join(map(chr, range(0xFE00, 0xFE10)))
"""What a terminal may get of the hidden characters: emoji and Persian are written with them."""
_SHOWN = 500
"""Characters of a text that runs are printed with, in all their fields."""
PLAN = {"workflow": "AG"}
INNOCENT = "What is the answer to Q7?"


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Toy, httpx.AsyncClient]]:
    """Serve a toy graph in this process."""
    toy = Toy(folder)
    async with calling(toy.graph) as client:
        yield toy, client


async def http_faults(case: Case, toy: Toy, client: httpx.AsyncClient) -> tuple[str, list[str]]:
    """Ask with the text, send it as a whole body, chat with it in earlier turns; say what came and what is wrong."""
    faults = []
    asked = await client.post("/ask", **_json({"question": case.text, "question_id": case.text[:200], **PLAN}))
    raw = await client.post("/ask", content=case.text.encode("utf-8", "surrogatepass"), headers=_JSON)
    for name, response in (("ask", asked), ("a body", raw)):
        faults += [f"{name}: {fault}" for fault in _response_faults(response)]
    seen = len(toy.recording.policy.asked)
    chat = await client.post("/v1/chat/completions", **_json({"messages": _turns(case.text), "jade": PLAN}))
    faults += [f"a chat: {fault}" for fault in _response_faults(chat)]
    prompts = [user for _, user in toy.recording.policy.asked[seen:]]
    answered = chat.status_code == 200
    if answered and chat.json()["choices"][0]["message"]["content"] != "answer to Q7":
        faults.append("a chat with such turns got another answer")
    if prompts != [f"Documents: none\nQuestion: {INNOCENT}"] * answered:
        faults.append("an earlier turn reached a prompt")
    return f"ask {asked.status_code}, body {raw.status_code}, chat {chat.status_code}", faults


_JSON = {"Content-Type": "application/json"}


def _json(data: Any) -> dict[str, Any]:
    return {"content": json.dumps(data).encode("ascii"), "headers": _JSON}


def _turns(text: str) -> list[dict[str, str]]:
    text = text[:100_000]
    return [
        {"role": "system", "content": text},
        {"role": "user", "content": text},
        {"role": "assistant", "content": text},
        {"role": text[:50], "content": text},
        {"role": "user", "content": INNOCENT},
    ]


def _response_faults(response: httpx.Response) -> Iterator[str]:
    if response.status_code >= 500:
        yield f"status {response.status_code}"
    if not response.content.isascii() or not response.headers["content-type"].startswith("application/json"):
        yield "the response is not JSON in ASCII"
        return
    body = response.json()
    if response.status_code != 200 and set(body) != {"error"}:
        yield "an error without the one shape"
    if any(sign in value for value in response.headers.values() for sign in "\r\n\0"):
        yield "a header with a line break"


def _warn_all(skipped: Iterable[str]) -> None:
    for line in skipped:
        warn(f"left out {line}")


def file_faults(case: Case, folder: Path) -> tuple[str, list[str]]:
    """Let a folder be indexed in which the text is a file's name, a file's content, a page and a table."""
    told, faults = [], []
    place = folder / case.id
    (place / "names").mkdir(parents=True)
    (place / "names" / "plain.txt").write_text("a plain file", "utf-8")
    entry = os.path.join(os.fsencode(place / "names"), _file_name(case.text))
    if case.link:
        os.symlink(case.link, entry)
    else:
        with open(entry, "wb") as file:
            file.write(case.text[:20_000].encode("utf-8", "replace"))
    safe = case.text[:20_000].encode("utf-8", "replace").decode()
    (place / "page.html").write_text(f"<title>{safe}</title><p>{safe}</p>", "utf-8")
    table = {"id": safe[:300], "title": safe, "text": safe}
    (place / "table.jsonl").write_text(json.dumps(table) + "\n", "utf-8")
    for source in (place / "names", place / "page.html", place / "table.jsonl"):
        try:
            reading = read_documents(source)
            told.append(f"{len(reading.documents)} passages")
            faults += [f"a passage of {doc.source!r:.60}" for doc in reading.documents if doc.text.startswith("root:")]
            faults += screen_faults(partial(_warn_all, reading.skipped))
        except ConfigError as error:
            told.append("refused")
            faults += screen_faults(lambda error=error: show_error(str(error), as_json=False))
    return f"file {told[0]}, page {told[1]}, table {told[2]}", faults


def _file_name(text: str) -> bytes:
    """Return the text as the name of a text file: without what no name can hold, and not too long."""
    flat = text[:400].replace("/", "\u2215").replace("\0", "").encode("utf-8", "replace")
    return flat[:251].decode("utf-8", "ignore").encode() + b".txt"


def screen_faults(write: Any) -> list[str]:
    """Return which control and hidden characters something writes to the terminal."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        write()
    raw = {sign for sign in set(screen.getvalue()) - {"\n", *JOINERS} if hidden(sign)}
    return [f"the terminal got {', '.join(f'U+{ord(sign):04X}' for sign in sorted(raw)[:4])}"] if raw else []


def shown_faults(case: Case, run: Trajectory) -> list[str]:
    """Print a run in every way there is, with the text wherever a ledger or an answer may hold it."""
    text = case.text[:_SHOWN]
    source = {"id": text[:300], "title": case.text}
    plan = {"path": "root", "question": text, "plan": text, "planned": text, "children": []}
    calls = tuple(replace(call, text=text, value=[text], format_error=text, adapter=text) for call in run.calls)
    hops = ({"path": text, "question": text, "raw_question": text, "answer": text, "skipped": text},)
    found = tuple(replace(item, query=text, ids=(source["id"],), scores=(1.0,)) for item in run.retrievals)
    forged = replace(
        run, question=text, answer=text, workflow=plan, calls=calls, hops=hops, retrievals=found, error=text,
        warnings=(text,), citations=(source["id"],), options={text[:50]: text}, hashes={text[:50]: text},
    )  # fmt: skip
    result = {"answer": text, "evidence": [source], "citations": [source], "run": text[:300]}
    titles = {source["id"]: case.text}

    def write() -> None:
        show(answer_view(result, forged), answer_view(result, forged, full=True))
        show(run_view(forged, titles, 0.5))
        for columns in (80, 160):
            show(runs_table([row(forged, None)], columns))
        show(f"\n--- prompt of {text} ---\n{text}")
        note(case.text[:MAX_QUESTION_CHARACTERS])
        warn(text)
        show_error(text, as_json=False)
        show_error(text, as_json=True)

    return screen_faults(write)
