"""The page engine against PyTorch, through node and, with RWKVGATE_BROWSER=1, in a headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkvgate.explore.bundle import bundle
from rwkvgate.explore.tokens import _bytes, token_texts
from rwkvgate.explore.weights import embedded
from rwkvgate.gate.gating import Gated
from rwkvgate.gate.patch import gates_of
from tests.explore.web import cases

HERE = Path(__file__).parent
NODE = shutil.which("node")
CHROMIUM = os.environ.get("RWKVGATE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FEW, SHORT = 8, 20
"""Prompts that each arm continues in node, and by how many tokens; in Chromium it is all of them, by 50."""
Answers = tuple[int, int, dict[str, Any]]
"""Prompts that each arm continued, tokens of a continuation, and what the engine answered."""
LOGITS, GATES, EXACT = 1e-3, 1e-4, 1e-5
"""Largest differences: those asked for, and that of numbers which are only rounded to float32."""
PAGE = """<!doctype html><meta charset="utf-8"><script type="text/plain" id="weights">%s</script>
<script type="text/plain" id="worker">%s</script><script type="module">%s
const weights = document.getElementById("weights").textContent;
const worker = $engine.workerOf(document.getElementById("worker").textContent);
const engine = $engine.pageEngine(weights, { worker });
const core = $weights.unembedded(weights).then((file) => new $reading.PageEngine(file));
window.answered = async (cases) => JSON.stringify(await $answers.answers(await engine, await core, cases));
</script>"""


def in_node(folder: Path) -> Answers:
    """The answers of the engine in node's own thread."""
    if NODE is None:
        pytest.skip("node is not on the path")
    (folder / "weights.bin").write_bytes(cases.weights())
    command = [NODE, HERE / "run.mjs", folder / "weights.bin"]
    done = subprocess.run(
        command, input=json.dumps(cases.cases(FEW, SHORT)), capture_output=True, encoding="utf-8", check=False
    )
    assert not done.returncode, done.stderr
    return FEW, SHORT, json.loads(done.stdout)


def in_chromium(folder: Path) -> Answers:
    """The answers of the engine in a worker of a page that is one file, opened from disk."""
    if os.environ.get("RWKVGATE_BROWSER") != "1":
        pytest.skip("RWKVGATE_BROWSER is not 1; make test-browser sets it")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path; RWKVGATE_CHROMIUM names one")
    script = bundle("engine", "reading", "answers", others={"answers": (HERE / "answers.js").read_text("utf-8")})
    page = PAGE % (embedded(cases.weights()), bundle("worker"), script)
    (folder / "page.html").write_text(page, encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened, requests = browser.new_page(), []
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto((folder / "page.html").as_uri())
        opened.wait_for_function("() => Boolean(window.answered)")
        text = opened.evaluate("cases => window.answered(cases)", cases.cases())
        browser.close()
    assert all(url.startswith(("file:", "blob:")) for url in requests)
    return cases.PROMPTS, cases.NEW, json.loads(text)


@pytest.fixture(scope="module", params=[in_node, in_chromium], ids=["node", "chromium"])
def answered(request: Any, tmp_path_factory: Any) -> Iterator[Answers]:
    """The engine's answers in one of the two places."""
    yield request.param(tmp_path_factory.mktemp("engine"))


def token_bytes(token: int) -> bytes:
    """The bytes of a token of the byte-level BPE."""
    return _bytes(cases.tokenizer(), token) or b""


def largest(found: Any, expected: Any) -> float:
    """The largest difference of two arrays of one shape."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


def test_token_ids_equal_those_of_tokenizers(answered: Any) -> None:
    texts, ids = cases.awkward(), answered[2]["ids"]
    assert len(texts) == 1000
    assert [text for text, found in zip(texts, ids, strict=True) if found != cases.ids_of(text)] == []


def test_pieces_are_those_of_the_kernel(answered: Any) -> None:
    for ids, pieces in zip(answered[2]["ids"], answered[2]["pieces"], strict=True):
        assert pieces == token_texts(cases.tokenizer(), ids)


def test_logits_and_gates_equal_pytorchs(answered: Any) -> None:
    readings = iter(answered[2]["read"])
    for arm, name in cases.asked():
        for text in cases.texts():
            ids, found = cases.ids_of(text), next(readings)
            logits, gates = cases.reading(arm, name, ids)
            assert largest(found["logits"], logits) < LOGITS, (arm, name)
            odds = logits.log_softmax(-1)
            nats = [-float(odds[i, token]) for i, token in enumerate(ids[1:])]
            assert found["surprisal"][0] is None and largest(found["surprisal"][1:], nats) < LOGITS
            best = odds.exp().topk(10)
            assert largest([[one["p"] for one in top] for top in found["top"]], best.values) < LOGITS
            assert found["top"][-1][0]["piece"] == token_texts(cases.tokenizer(), [int(best.indices[-1, 0])])[0]
            assert (found["layers"], found["left"], len(found["pieces"])) == (3, 0, len(ids))
            if gates is None:
                assert found["gates"] is None and not any(found["letIn"])
            else:
                assert largest(np.reshape(found["gates"], gates.shape), gates) < GATES, (arm, name)


def test_what_a_gate_lets_in(answered: Any) -> None:
    places = [(arm, name, text) for arm, name in cases.asked() for text in cases.texts()]
    found = answered[2]["read"][places.index(("identity-start", "none", cases.texts()[1]))]["letIn"]
    shares: list[Any] = []

    def keep(module: Any, inputs: Any, gated: Gated) -> None:
        scale = gates_of(cases.model("identity-start"))[len(shares)].gate_scale
        shares.append((scale * gated.factor * gated.moved).norm(dim=-1)[0] / inputs[0].now.norm(dim=-1)[0])

    handles = [gate.gating.register_forward_hook(keep) for gate in gates_of(cases.model("identity-start"))]
    cases.reading("identity-start", "none", cases.ids_of(cases.texts()[1]))
    for handle in handles:
        handle.remove()
    assert largest(found, np.concatenate([share[1:].detach().numpy() for share in shares])) < EXACT


def test_greedy_continuations_equal_pytorchs(answered: Any) -> None:
    prompts, new, answers = answered
    written = iter(answers["written"])
    for arm, name in cases.asked():
        texts = cases.continued(name, prompts)
        for text, expected in zip(texts, cases.continuations(arm, name, texts, new), strict=True):
            steps = next(written)["steps"]
            assert [step["id"] for step in steps] == expected, (arm, name, text)


def test_a_continuation_gives_its_odds_and_text(answered: Any) -> None:
    prompts, _, answers = answered
    written = iter(answers["written"])
    for arm, name in cases.asked():
        for i, text in enumerate(cases.continued(name, prompts)):
            one = next(written)
            new = [step["id"] for step in one["steps"]]
            if i >= cases.CHECKED or not new:
                continue
            ids = cases.ids_of(text)
            logits, _ = cases.reading(arm, name, ids + new)
            odds = logits.softmax(-1)[len(ids) - 1 : -1]
            assert (
                largest([step["p"] for step in one["steps"]], [odds[j, token] for j, token in enumerate(new)]) < LOGITS
            )
            whole = b"".join(token_bytes(token) for token in new).decode(errors="replace").rstrip("\ufffd")
            assert "".join(step["text"] for step in one["steps"]).rstrip("\ufffd") == whole
            assert one["pieces"] == token_texts(cases.tokenizer(), new)


def test_what_cannot_be_done_is_refused_in_words(answered: Any) -> None:
    assert answered[2]["refusals"] == [
        "the text is empty; type at least one character",
        f"there is no arm enhnced; there are {', '.join(cases.ARMS)}",
        "arm base has no gate to change",
        "value is 2; it must be 0 to 1",
        "exactly one of value, scale and replace must be given",
        "scale is -1; it must be a finite number of at least 0",
        "value has 2 numbers; it must have 1 or 32",
        "layer holds 4; allowed are whole numbers from 1 to 3",
        "channels holds 32; allowed are whole numbers from 0 to 31",
        "tokens holds -1; allowed are whole numbers from 0",
        "the other text is empty; type at least one character",
        "exactly one of value, scale and replace must be given",
        "tokens is 0; it must be at least 1",
        "temperature is -1; it must be a number of at least 0",
    ]


def test_the_engine_says_what_it_has(answered: Any) -> None:
    about = answered[2]["about"]
    gate = {"layers": 3, "channels": 32, "kind": "sigmoid", "shift": "previous", "norm": "layer"}
    assert about["engine"] == "page" and about["title"] == "Test" and about["untrained"] is None
    assert about["arms"][0] == {"name": "base", "label": "Base", "gate": None, "note": "untouched"}
    assert about["arms"][1] == {"name": "enhanced", "label": "enhanced", "gate": gate, "note": ""}


def test_sampling_follows_the_seed_and_long_texts_the_limit(answered: Any) -> None:
    behaviour = answered[2]["behaviour"]
    one, same, other, cold, greedy = behaviour["samples"]
    assert one == same and one != other and cold == greedy
    tokens = len(cases.ids_of("a " * 2100))
    refusal = f"the text has {tokens} tokens; the page continues up to 2000"
    assert behaviour["long"] == [2000, tokens - 2000, 6000, refusal]


def test_what_runs_can_be_stopped(answered: Any) -> None:
    reading, continued = answered[2]["behaviour"]["stopped"]
    assert reading.startswith("stopped after ") and 3 <= continued < 50
