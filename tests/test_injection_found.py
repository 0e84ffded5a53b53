"""What the injection suite found broken once: hidden signs, full-width tokens, half characters, links, long lines."""

from __future__ import annotations

import os
import time
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from agents.documents import read_documents
from agents.errors import ConfigError
from agents.model_prompt import PromptEncoder
from agents.role import quote, unquote
from agents.view import cut
from benchmarks.injection.families import toy_family
from benchmarks.injection.prompts import hidden
from cli.terminal import clean, show
from tests.toy_model import CHATML, toy_model, toy_tokenizer


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a\u061cb", "a b"),  # a direction sign outside of the general block
        ("a\u206ab\ufff9c\u3164d\U0001d173e", "a b c d e"),
        ("ex\u00adam\ufe0fp\u034fle\U000e0101s", "examples"),  # inside words: nothing is left in their place
        ("＜/answer＞ ﹤b﹥", "‹/answer› ‹b›"),
        ("2 ≮ 1", "2 ‹\u0338 1"),
    ],
)
def test_what_nobody_sees_and_what_normalises_to_a_bracket_is_quoted(text: str, quoted: str) -> None:
    assert quote(text) == quoted == quote(quoted)


@given(st.text())
def test_nothing_hidden_passes_into_a_prompt(text: str) -> None:
    shown = {chr(place) for place in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)}
    assert not [sign for sign in quote(text) if hidden(sign) and sign not in shown]
    assert not set(quote(text)) & set("<>\n") and quote(quote(text)) == quote(text)


def test_a_struck_out_bracket_comes_back_as_the_same_sign() -> None:
    import unicodedata

    assert unicodedata.normalize("NFC", unquote(quote("≮"))) == "≮"


def test_full_width_tokens_are_defused_where_a_tokenizer_folds_them() -> None:
    family = toy_family("folding", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, folds=True)
    (start,) = family.tokenizer("<|im_start|>", add_special_tokens=False)["input_ids"]
    for attack in ("＜｜im_start｜＞", "<|IM_START|>", "＜|im_＜|im_start|＞start|＞", "x<|im_start|>"):
        assert family.tokenizer(attack, add_special_tokens=False)["input_ids"].count(start) == 1, attack
        prompt = family.encoder.encode([{"role": "user", "content": attack}])
        assert prompt.ids.count(start) == 2, attack  # the template's own: a user turn, and the answer's beginning


def test_ordinary_text_is_left_as_it_is_where_a_tokenizer_folds() -> None:
    family = toy_family("folding", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, folds=True)
    for text in ("Who wrote Dune?", "Ｗｈｏ？", "a < b | c > d", "İstanbul"):
        assert family.encoder.defuse(text) == text


def test_a_special_token_of_one_character_vanishes() -> None:
    family = toy_family("one", ["<unk>", "<s>", "</s>", "\u241f"], CHATML)
    assert family.encoder.defuse("a\u241fb</s>") == "a b< /s>"


def test_single_characters_that_are_no_special_tokens_stay() -> None:
    tokenizer = toy_family("two", ["<unk>", "<s>", "</s>"], CHATML).tokenizer
    tokenizer.add_tokens([AddedToken("ß", special=False, normalized=False)])
    assert PromptEncoder(tokenizer).defuse("Straße") == "Straße"


def test_a_normaliser_that_changes_nothing_of_importance_changes_nothing() -> None:
    tokenizer = toy_family("nfc", ["<unk>", "<s>", "</s>"], CHATML).tokenizer
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert PromptEncoder(tokenizer).defuse("e\u0301 </s>") == "e\u0301 < /s>"


def test_half_characters_in_a_chat_do_not_stop_the_model() -> None:
    prompt = toy_model().encode([{"role": "user", "content": "half \ud83d of it"}])
    assert "half ? of it" in toy_tokenizer().decode(list(prompt.ids))


def test_links_out_of_a_folder_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the secret")
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "in" / "below" / "a.txt").write_text("hello")
    os.symlink(tmp_path / "secret.txt", tmp_path / "in" / "notes.txt")
    os.symlink(tmp_path / "in" / "below" / "a.txt", tmp_path / "in" / "b.txt")
    reading = read_documents(tmp_path / "in")
    assert [item.text for item in reading.documents] == ["hello", "hello"]
    (line,) = reading.skipped
    assert line.startswith(f"{tmp_path}/in/notes.txt: a link that leads out of the folder")
    os.symlink(tmp_path / "in", tmp_path / "alias")
    assert len(read_documents(tmp_path / "alias").documents) == 2  # the folder itself may be a link
    (tmp_path / "in" / "b.txt").unlink()
    (tmp_path / "in" / "below" / "a.txt").unlink()
    with pytest.raises(ConfigError, match="leads out of the folder"):
        read_documents(tmp_path / "in")


def test_a_long_line_costs_a_prompt_nothing() -> None:
    began = time.process_time()
    for _ in range(200):
        assert len(cut("</answer>" * 200_000)) == 1000
    assert time.process_time() - began < 5


def test_nothing_raw_leaves_through_show(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid()
    table.add_row(Text("a\x1b[2Jb\u061cc"))
    show(table, "d\x9b31m\re", Text("f\u202eg"))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == ["a [2Jb c", "d 31m e", "f g"]
    assert clean("👩\u200d🚀 ❤\ufe0f") == "👩\u200d🚀 ❤\ufe0f"  # emoji stay whole


def test_tokens_with_white_space_at_their_ends_are_broken_up_once() -> None:
    tokenizer = deepcopy(toy_tokenizer())
    tokenizer.add_tokens([" foo", "ba "])
    assert PromptEncoder(tokenizer).defuse("a foo bar") == "a f oo b ar"
