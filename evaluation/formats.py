"""The file formats that question answering data comes in, told apart by content, not by name.

Ours and any JSON Lines of {question, answers}; FlashRAG's JSON Lines (`golden_answers`); official HotpotQA and
2WikiMultiHopQA JSON (a list with `_id`, `answer`, `supporting_facts`), also in the hub's shape; the official MuSiQue
JSON Lines (`question_decomposition`, `answer_aliases`); SQuAD's nested JSON; each may be gzipped. What cannot be used
comes out as a reason beside its place in the file; what follows is decided in `evaluation.dataset`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from agents.errors import ConfigError

Row = Mapping[str, Any]
FORMATS = (
    "JSON Lines of {question, answers}, FlashRAG JSON Lines, HotpotQA or 2WikiMultiHopQA JSON, "
    "MuSiQue JSON Lines, SQuAD JSON; each may be gzipped"
)


def read_rows(path: Path) -> Iterator[tuple[str, Row | str]]:
    """Yield (place such as "line 3", row or the reason why it is none) of a data file, in file order.

    Raises:
        ConfigError: The file cannot be opened, decompressed or decoded.
    """
    try:
        with _open(path) as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            whole = _whole(first, file)
            file.seek(0)
            yield from _lines(file) if whole is None else _elements(whole)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a readable UTF-8 file in one of: {FORMATS}") from None


def _open(path: Path) -> TextIO:
    with path.open("rb") as probe:
        packed = probe.read(2) == b"\x1f\x8b"
    if packed:
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open("rt", encoding="utf-8-sig")


def _whole(first: str, file: TextIO) -> list[Any] | dict[str, Any] | None:
    """Return the file as one JSON value if it is one (a list, or SQuAD's object), else None: JSON Lines."""
    head = _parse(first)
    if isinstance(head, dict) and not isinstance(head.get("data"), list):
        return None
    value = head if isinstance(head, dict) else _parse(file.read())
    return value if isinstance(value, list | dict) else None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _lines(file: TextIO) -> Iterator[tuple[str, Row | str]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", _object(json.loads(line))
        except (ValueError, RecursionError) as error:
            yield f"line {number}", f"not JSON ({error})"


def _object(value: Any) -> Row | str:
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__} where an object is expected"


def _elements(whole: list[Any] | dict[str, Any]) -> Iterator[tuple[str, Row | str]]:
    if isinstance(whole, list):
        for number, value in enumerate(whole, start=1):
            yield f"row {number}", _object(value)
    elif isinstance(whole.get("data"), list):
        yield from _squad(whole)
    else:
        yield "line 1", _object(whole)


def _squad(whole: Row) -> Iterator[tuple[str, Row | str]]:
    level: Iterator[tuple[str, Row | str]] = iter([("", whole)])
    for key in ("data", "paragraphs", "qas"):
        level = _opened(level, key)
    for place, item in level:
        yield place, item if isinstance(item, str) else _squad_row(item)


def _opened(level: Iterator[tuple[str, Row | str]], key: str) -> Iterator[tuple[str, Row | str]]:
    """Yield what each object holds in its list under a key; what is no object, or holds no list, as a reason."""
    for place, item in level:
        found = item if isinstance(item, str) else item.get(key)
        if isinstance(found, list):
            for number, part in enumerate(found):
                yield f"{place}.{key}[{number}]".lstrip("."), _object(part)
        else:
            yield place, item if isinstance(item, str) else f"'{key}' is {found!r:.60}, and must be a list"


def _squad_row(item: Row) -> Row | str:
    golds = item.get("answers", [])
    odd = [gold for gold in golds if not isinstance(gold, dict)] if isinstance(golds, list) else [golds]
    if odd:
        return f"a gold answer is {odd[0]!r:.60}, and must be an object with 'text', in a list"
    texts = [gold.get("text") for gold in golds]
    return {
        "id": item.get("id"), "question": item.get("question"), "answers": texts, "type": "single", "origin": "squad",
    }  # fmt: skip


def fields_of(row: Row) -> dict[str, Any]:
    """Return the fields of one question, whatever the format, as keyword arguments of `Example`.

    Raises:
        ValueError: The row is malformed; the message is the reason. A missing gold answer is an empty tuple.
    """
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        found = f"'question' is {question!r:.60}" if "question" in row else "there is no field 'question'"
        raise ValueError(f"no question: {found}; wanted non-blank text in it")
    if "golden_answers" in row:
        fields = _flashrag(row)
    elif "question_decomposition" in row:
        fields = _musique(row)
    elif "supporting_facts" in row or "_id" in row:
        fields = _hotpot(row)
    else:
        fields = _plain(row)
    fields["question"] = question.strip()
    fields["id"] = _identifier(fields["id"], fields["question"])
    fields["hops"] = fields.get("hops") or _hops(fields)
    return fields


def _plain(row: Row) -> dict[str, Any]:
    hops = row.get("hops")
    if hops is not None and (not isinstance(hops, int) or hops < 1):
        raise ValueError(f"'hops' is {hops!r:.60}, and must be a whole number from 1")
    return {
        "id": row.get("id"),
        "answers": _golds(row.get("answers", row.get("answer"))),
        "type": str(row.get("type") or ""),
        "hops": hops,
        "supporting": _texts(row.get("supporting"), "supporting"),
        "decomposition": _steps(row.get("decomposition")),
        "decomposition_kind": str(row.get("decomposition_kind") or ""),
        "origin": str(row.get("origin") or row.get("source") or ""),
    }


def _flashrag(row: Row) -> dict[str, Any]:
    metadata = row.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return {
        "id": row.get("id"),
        "answers": _golds(row["golden_answers"]),
        "type": str(metadata.get("type") or ""),
        "supporting": _titles(metadata.get("supporting_facts")),
        "origin": "flashrag",
    }


def _hotpot(row: Row) -> dict[str, Any]:
    return {
        "id": row.get("_id", row.get("id")),
        "answers": _golds(row.get("answer")),
        "type": str(row.get("type") or ""),
        "supporting": _titles(row.get("supporting_facts")),
        "origin": "official",
    }


def _musique(row: Row) -> dict[str, Any]:
    if row.get("answerable") is False:
        raise ValueError("'answerable' is false: give the answerable part of MuSiQue (musique_ans)")
    paragraphs = row.get("paragraphs")
    titles = [
        item.get("title")
        for item in (paragraphs if isinstance(paragraphs, list) else [])
        if isinstance(item, dict) and item.get("is_supporting")
    ]
    aliases = row.get("answer_aliases")
    return {
        "id": row.get("id"),
        "answers": _golds([row.get("answer"), *(aliases if isinstance(aliases, list) else [])]),
        "type": str(row.get("id") or "").split("__")[0],
        "supporting": _texts(titles, "paragraphs"),
        "decomposition": _steps(row["question_decomposition"]),
        "decomposition_kind": "gold",
        "origin": "official",
    }


def _titles(facts: Any) -> tuple[str, ...]:
    """Return the titles of `supporting_facts`: a list of [title, sentence], or {"title": […], …} as on the hub."""
    if isinstance(facts, dict):
        facts = facts.get("title", facts)
    elif isinstance(facts, list):
        facts = [pair[0] if isinstance(pair, list) and pair else pair for pair in facts]
    return _texts(facts, "supporting_facts")


def _golds(value: Any) -> tuple[str, ...]:
    """Return distinct non-blank golds; a lone text, number or truth value counts as a list of one."""
    values = value if isinstance(value, list) else [value]
    texts: list[str] = []
    for item in values:
        if isinstance(item, bool):
            texts.append("yes" if item else "no")
        elif isinstance(item, str | int) or (isinstance(item, float) and math.isfinite(item)):
            texts.append(str(item).strip())
        elif item is not None:
            raise ValueError(f"a gold answer is {item!r:.60}, and must be text")
    return tuple(dict.fromkeys(text for text in texts if text))


def _texts(value: Any, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"'{key}' is {value!r:.60}, and must be a list of texts")
    return tuple(dict.fromkeys(value))


def _steps(value: Any) -> tuple[tuple[str, str | None], ...]:
    if value is None:
        return ()
    items: Iterable[Any] = value if isinstance(value, list) else [value]
    steps = []
    for item in items:
        text = item.get("question") if isinstance(item, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a decomposition step is {item!r:.60}, and must be {{question, answer}}")
        answer = item.get("answer")
        steps.append((text.strip(), None if answer is None else str(answer).strip()))
    return tuple(steps)


def _identifier(value: Any, question: str) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    if value is not None:
        raise ValueError(f"'id' is {value!r:.60}, and must be text or a number")
    return "q-" + hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:12]


def _hops(fields: Row) -> int | None:
    """Return the number of hops that a row implies where it does not state one; None where it implies none."""
    named = re.match(r"(\d)hop", str(fields.get("type", ""))) or re.match(r"(\d)hop", fields["id"])
    if named:
        return int(named[1])
    if fields.get("type") == "bridge_comparison":
        return 4
    passages = len(fields["supporting"])
    implied = 2 if passages > 1 else 1 if passages or fields.get("type") == "single" else None
    return len(fields.get("decomposition", ())) or implied
