"""Blind pairs: the draw, what raters see of it, their files, and the way back to the arms."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rwkvgate.experiment.rating import pairs as module
from rwkvgate.experiment.rating.pairs import (
    SCRIPT,
    Pair,
    Rating,
    answer_by_script,
    draw_pairs,
    draw_rating,
    judgements,
    read_answers,
)
from rwkvgate.experiment.rating.panel import Rater
from rwkvgate.experiment.run import Run
from rwkvgate.experiment.settings import resolve
from rwkvgate.gate.validation import SettingsError

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "</div><script>alert('x')</script>\n````\n# no heading \u202eabc \x07"


def samples(arm: str, seed: int = 0, documents: int = 12) -> list[dict[str, str]]:
    """Made-up continuations that tell their arm to the test alone."""
    text = {"base-tuned": "one two", "enhanced": "one one", "fixed-gate": "one one one two"}[arm]
    return [{"prompt": f"Prompt {i}.", "reference": "", "continuation": f"{text} {seed} {i}"} for i in range(documents)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of two seeds whose evaluation is made up."""
    monkeypatch.setattr(module, "ensure_evaluation", lambda v: SimpleNamespace(samples=samples(v.arm.name, v.seed)))
    return Run(resolve("smoke", run_dir=str(tmp_path / "run"), evaluation={"seeds": 2}))


@pytest.fixture
def rating(run: Run) -> Rating:
    return draw_rating(run, ["base-tuned", "enhanced"])


def key_of(rating: Rating) -> list[dict[str, Any]]:
    return json.loads((rating.folder / "key.json").read_text())["pairs"]


def test_arms_and_sides_are_balanced_and_the_key_is_right() -> None:
    arms = ["base-tuned", "enhanced", "fixed-gate"]
    written = {arm: [samples(arm, seed) for seed in range(2)] for arm in arms}
    shown, key = draw_pairs(written, seed=3, count=36)
    assert len(shown) == len(key) == 36
    sides, duels = Counter(), Counter()
    for pair, one in zip(shown, key, strict=True):
        for text, arm in ((pair.a, one["a"]), (pair.b, one["b"])):
            assert text == written[arm][one["seed"]][one["document"]]["continuation"]
        assert pair.prompt == f"Prompt {one['document']}."
        sides[one["a"]] += 1
        duels[frozenset((one["a"], one["b"]))] += 1
    assert set(duels.values()) == {12} and set(sides.values()) == {12}
    assert len({one["seed"] for one in key}) == 2
    assert max(Counter(one["document"] for one in draw_pairs(written, 3, 12)[1]).values()) == 1


def test_the_seed_decides_and_the_order_of_sides_has_no_pattern() -> None:
    written = {arm: [samples(arm, documents=200)] for arm in ("base-tuned", "enhanced")}
    one, same, other = (draw_pairs(written, seed, 200) for seed in (0, 0, 1))
    assert one == same and one != other
    left = [entry["a"] == "enhanced" for entry in one[1]]
    assert sum(left) == 100
    assert 60 < sum(a == b for a, b in pairwise(left)) < 140  # alternation would have 0


def test_equal_continuations_are_left_out() -> None:
    written = {"base": [samples("base-tuned")], "enhanced": [samples("base-tuned")[:11] + samples("enhanced")[11:]]}
    shown, key = draw_pairs(written, 0, 50)
    assert [one["document"] for one in key] == [11] and shown[0].a != shown[0].b


def test_no_arm_is_named_where_raters_look_and_a_second_draw_is_the_same_set(run: Run, rating: Rating) -> None:
    for path in (rating.folder / "sheet.md", rating.folder / "sheet.csv"):
        text = path.read_text(encoding="utf-8")
        assert not any(arm in text for arm in ("base", "enhanced", "tuned"))
    assert "enhanced" not in repr(rating.pairs)
    form = rating.folder / "sheet.csv"
    form.write_text("filled in where it lies")
    assert draw_rating(run, ["base-tuned", "enhanced"]) == rating
    assert form.read_text() == "filled in where it lies"
    assert draw_rating(run, ["base-tuned", "enhanced"], seed=1).folder != rating.folder


def test_nothing_in_a_text_leaves_its_block_on_the_sheet() -> None:
    sheet = module._sheet("set-1", [Pair("p", HOSTILE, "")])
    assert "\u202e" not in sheet and "\x07" not in sheet and "(it ends at once)" in sheet
    assert sheet.count("\n`````\n") == 2  # longer than the fence inside
    assert all(len(line) <= 120 for line in module._sheet("set-1", [Pair("word " * 99, "a", "b")]).splitlines()[3:])


def test_a_form_filled_in_by_a_spreadsheet_is_read_and_leads_to_the_arms(rating: Rating) -> None:
    lines = (rating.folder / "sheet.csv").read_text().splitlines()
    filled = [lines[0], lines[1] + "a", lines[2] + "Tie ", *lines[3:]]
    path = rating.folder / "answers" / "ann.csv"
    path.parent.mkdir()
    path.write_text("\ufeff" + "\r\n".join(filled).replace(",", ";") + "\r\n", encoding="utf-8")
    table = judgements(rating.folder)
    assert list(table.columns) == ["rater", "pair", "document", "a", "b", "answer"]
    assert list(table["answer"]) == ["A", "tie"] and set(table["rater"]) == {"ann"}
    assert list(table["a"]) == [one["a"] for one in key_of(rating)[:2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must begin with the line set,pair,answer"),
        ("name,pair,answer\n", "must begin with the line"),
        ("set,pair,answer\nset-other,1,A\n", "line 2 belongs to 'set-other', and this set is NAME"),
        ("set,pair,answer\nNAME,1\n", "line 2 has 2 cells; it must have 3"),
        ("set,pair,answer\nNAME,13,A\n", "the pair is '13'; allowed are 1 to 12"),
        ("set,pair,answer\nNAME,²,A\n", "the pair is '²'"),
        ("set,pair,answer\nNAME,1,C\n", "the answer is 'C'; allowed are A, B and tie"),
        ("set,pair,answer\nNAME,1,A\nNAME,1,B\n", "line 3: pair 1 is answered twice"),
        ("\x00\udcff", "cannot be read as a table"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_a_sentence(rating: Rating, text: str, message: str) -> None:
    path = rating.folder / "answers" / "ann.csv"
    path.parent.mkdir()
    path.write_bytes(text.replace("NAME", rating.name).encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError) as refused:
        Rater(rating, "ann")
    assert message.replace("NAME", rating.name) in str(refused.value)
    with pytest.raises(SettingsError):
        judgements(rating.folder)


@pytest.mark.parametrize("name", ["", "../ann", "Ann", "ann.csv", "-ann", "añn", "a" * 33, "ann\n", 3, SCRIPT])
def test_a_name_that_is_not_plain_is_refused(rating: Rating, name: Any) -> None:
    with pytest.raises(SettingsError, match="the rater's name is"):
        Rater(rating, name)
    assert not (rating.folder / "answers").exists()


def test_a_damaged_key_is_refused_and_drawn_again(run: Run, rating: Rating) -> None:
    path = rating.folder / "key.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 9', 1))
    with pytest.raises(SettingsError, match="is missing or damaged; draw the set again"):
        judgements(rating.folder)
    draw_rating(run, ["base-tuned", "enhanced"])
    with pytest.raises(SettingsError, match="no answer of a person yet"):
        judgements(rating.folder)


def test_the_script_prefers_fewer_repeats_and_is_kept_apart_from_people(rating: Rating) -> None:
    answer_by_script(rating)
    with pytest.raises(SettingsError, match="no answer of a person yet"):
        judgements(rating.folder)
    table = judgements(rating.folder, scripted=True)
    assert set(table["rater"]) == {SCRIPT} and len(table) == 12
    preferred = [row["a"] if row["answer"] == "A" else row["b"] for row in table.to_dict("records")]
    assert set(preferred) == {"base-tuned"} and "tie" not in set(table["answer"])
    assert len(read_answers(rating.folder / "answers" / f"{SCRIPT}.csv", rating.name, 12)) == 12


@pytest.mark.parametrize(
    ("arms", "named", "message"),
    [
        (["enhanced"], {}, "there must be two or more, all different"),
        (["enhanced", "enhanced"], {}, "all different"),
        (["enhanced", "enhancd"], {}, "did you mean 'enhanced'"),
        (["enhanced", "base-tuned"], {"count": 0}, "count is 0; it must be a whole number of at least 1"),
        (["enhanced", "base-tuned"], {"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_draw_is_refused(run: Run, arms: list[str], named: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        draw_rating(run, arms, **named)


def test_the_page_runs_and_calls_the_script_a_script(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "rating.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S))
    exec(script.replace("outputs/smoke", str(tmp_path / "new")), {})
    said = "By a script, no human evaluation: 10 judgements on 10 prompts by 1 rater."
    assert said in page and said.split(":")[0] in capsys.readouterr().out
    assert "No person has rated anything yet" in page


def test_notebook_03_asks_nobody_unless_told_to() -> None:
    cells = json.loads((ROOT / "notebooks" / "03_evaluate.ipynb").read_text(encoding="utf-8"))["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if cell["id"] == "rate-pairs"]
    assignment, condition = ast.parse(source).body
    assert ast.unparse(assignment) == "rater = ''" and isinstance(condition, ast.If)
    assert ast.unparse(condition.test) == "rater"
