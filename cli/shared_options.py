"""Options that several commands share: which model speaks, what it searches, where the record goes, how to print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL, PASSAGES, OUTPUT = "Model", "Passages", "Output and record"
"""Panels of the help."""
Model = Annotated[str | None, typer.Option(help="Folder or Hugging Face id; default: embedded.", rich_help_panel=MODEL)]
Adapter = Annotated[str, typer.Option(help="Adapter folder; auto = the shipped one, none.", rich_help_panel=MODEL)]
Costs = Annotated[
    str | None, typer.Option(help="Folder with adapters low/ and high/, for --cost.", rich_help_panel=MODEL)
]
Prompts = Annotated[str | None, typer.Option(help="examples, bare, or a folder.", rich_help_panel=MODEL)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …", rich_help_panel=MODEL)]
Dtype = Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.", rich_help_panel=MODEL)]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", rich_help_panel=MODEL)]
Server = Annotated[
    str | None, typer.Option(help="Address of a llama.cpp or vLLM server that runs the model.", rich_help_panel=MODEL)
]
Index = Annotated[
    str | None,
    typer.Option("--index", "--collection", help="Collection or bundled dataset.", rich_help_panel=PASSAGES),
]
Mode = Annotated[str, typer.Option("--retriever", help="exact, hnsw, bm25 or hybrid.", rich_help_panel=PASSAGES)]
Embedder = Annotated[str | None, typer.Option(help="Folder or Hugging Face id.", rich_help_panel=PASSAGES)]
TopK = Annotated[int, typer.Option(min=1, help="Passages a retrieval.", rich_help_panel=PASSAGES)]
Record = Annotated[str | None, typer.Option(help="off, on or train (samples).", rich_help_panel=OUTPUT)]
Ledger = Annotated[Path | None, typer.Option(help="Ledger folder; default: JADE's own.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)]
