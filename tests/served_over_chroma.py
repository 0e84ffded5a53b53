"""A graph for `jade serve --graph tests.served_over_chroma:make`: scripted roles over the Chroma server in use."""

from __future__ import annotations

import os
from pathlib import Path

from agents.retriever import ChromaRetriever
from graphs.jade import build_jade
from graphs.recorded import RecordedGraph
from tests.chroma_process import TOY
from tests.scripted import record, says


def make() -> RecordedGraph:
    """Build the graph; its retriever has read the collection, and asks the server for each question."""
    retriever = ChromaRetriever(
        collection="notes", mode="hnsw", embedder=TOY, answer_seconds=0.5,
        patience_seconds=float(os.environ["TOY_PATIENCE"]),
    )  # fmt: skip
    retriever.warm()
    script = says(planner="R,AG", answer_generator="a violin")
    return record(build_jade, script, Path(os.environ["JADE_HOME"]) / "ledger", retriever=retriever).graph
