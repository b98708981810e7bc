"""The front end without a browser: its modules join into one script, and its pure functions do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rwkvgate.explore.bundle import bundle, web_file

WEB = Path(__file__).parent / "web"
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node, which runs the front end's functions, is not on the path")
def test_the_functions_of_the_front_end() -> None:
    assert NODE is not None
    unit = bundle("unit", others={"unit": (WEB / "unit.js").read_text(encoding="utf-8")})
    script = f'import assert from "node:assert/strict";\n{unit}$unit.run(assert);\n'
    done = subprocess.run([NODE, "--input-type=module"], input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_bundle_refuses_what_it_cannot_join() -> None:
    for line in ('import * as all from "./a.js";', "export default 1;", "export { a };", 'import "./a.js";'):
        with pytest.raises(ValueError, match=r"b\.js has"):
            bundle("b", others={"a": "", "b": line + "\n"})
    with pytest.raises(ValueError, match="cycle"):
        bundle("a", others={"a": 'import { b } from "./b.js";\n', "b": 'import { a } from "./a.js";\n'})


def test_the_front_end_makes_no_markup_of_text_and_asks_no_host() -> None:
    script, sheet = bundle("app", "widget", "recorded"), web_file("app.css")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\brequire\(", script
    )
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|https?://(?!www\.w3\.org/2000/svg)", script)
    assert "url(" not in sheet and "@import" not in sheet


def test_a_missing_file_says_that_the_installation_is_not_complete() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.js is missing: this installation of rwkvgate is not complete"
    ):
        web_file("nothing.js")
