"""`jade show RUN`: one recorded run as a tree, with everything that was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.errors import ConfigError, RetrieverError
from cli.terminal import note, show_json
from cli.terminal import show as display

if TYPE_CHECKING:
    from graphs.trajectory import Trajectory


def show(
    run: Annotated[str | None, typer.Argument(help="Run id, or enough of its beginning; default: the latest.")] = None,
    prompts: Annotated[bool, typer.Option("--prompts", help="Print each call's prompt as the model saw it.")] = False,
    model: Annotated[Path | None, typer.Option(help="Model folder whose tokenizer decodes the prompts.")] = None,
    credit: Annotated[bool, typer.Option("--credit", help="Print the reward, and V, G, A and f of each call.")] = False,
    answers: Annotated[Path | None, typer.Option(help="File with gold answers; implies --credit.")] = None,
    critic: Annotated[
        Path | None,
        typer.Option(
            help="Output folder of a PPO run: its prices, and V by its critic or estimator; implies --credit."
        ),
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Folder of the index that titles are looked up in.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Ledger folder or file; default: JADE's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Show one run: question, workflow, each role's text, validity, passages, timings, log-probabilities, credit."""
    from cli.credit import credit_of, credit_view
    from cli.render import run_view
    from graphs.feedback import read_feedback
    from graphs.ledger import find_run, ledger_folder

    path = ledger or ledger_folder()
    found = find_run(path, run)
    feedback = read_feedback(path, on_problem=lambda problem: None)
    score = feedback.get(found.run)
    texts = decode_prompts(found, model) if prompts else {}
    worth = credit_of(found, path, feedback, answers, critic) if credit or answers or critic else None
    if as_json:
        extra: dict[str, object] = {"prompts": texts} if prompts else {}
        if worth is not None:
            extra["credit"] = {**worth[0].to_json(), "remarks": worth[1]}
        show_json({**found.to_json(), "feedback": score, **extra})
        return
    display(run_view(found, lookup_titles(found, index), score))
    if worth is not None:
        display(credit_view(*worth))
    for identifier, text in texts.items():
        display(f"\n--- prompt of {identifier} ---\n{text}")


def decode_prompts(trajectory: Trajectory, model: Path | None) -> dict[str, str]:
    """Return the prompt of each call as text, special tokens included.

    Raises:
        ConfigError: The tokenizer of the run's model is not at hand.
    """
    from tokenizers import Tokenizer

    from agents.home import jade_home

    base = str(trajectory.identity.get("base", ""))
    folder = model or jade_home() / "models" / base
    file = folder / "tokenizer.json"
    if (not base and model is None) or not file.is_file():
        raise ConfigError(f"--prompts needs the tokenizer of {base or 'the model'!r}: no {file}; give --model FOLDER")
    tokenizer = Tokenizer.from_file(str(file))
    return {call.id: tokenizer.decode(list(call.prompt_ids), skip_special_tokens=False) for call in trajectory.calls}


def lookup_titles(trajectory: Trajectory, index: Path | None) -> dict[str, str]:
    """Return titles of the run's passages by id; empty where the collection is no longer there."""
    from agents.chroma import collection_name, find_collection, open_client
    from agents.chroma_failures import chroma_errors
    from agents.chroma_place import has_store, index_place

    ids = sorted({identifier for item in trajectory.retrievals for identifier in item.ids})
    retriever = trajectory.identity.get("retriever")
    name = retriever.get("collection") if isinstance(retriever, dict) else None
    place = index_place(index)
    if not ids or not name or not has_store(place):
        return {}
    try:
        with chroma_errors(f'looking titles up in collection "{name}"'):
            found = find_collection(open_client(place), collection_name(str(name)))
            got = found.get(ids=ids, include=["metadatas"]) if found is not None else None
    except (RetrieverError, ConfigError, ValueError) as error:
        note(f"titles are not shown: {error}")
        return {}
    if got is None:
        return {}
    about = zip(got["ids"], got["metadatas"] or [], strict=False)
    return {identifier: str((data or {}).get("title") or "") for identifier, data in about}
