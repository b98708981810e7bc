"""The reference run is copied from sound results alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from nbconvert import HTMLExporter

from rwkvgate.experiment.records import KEPT, intact, keep_record
from rwkvgate.experiment.rules import RULES, VERSION
from rwkvgate.experiment.settings import resolve
from rwkvgate.experiment.studies.clamps import CLAMPS, gate_claims
from rwkvgate.gate.validation import SettingsError
from rwkvgate.rwkv6.files import write_json, write_text
from rwkvgate.workflow.app import finished_arms, open_finished
from rwkvgate.workflow.release import EXECUTED, REPORT, reference
from rwkvgate.workflow.results import REFERENCE, read_claims, results_in_markdown

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / REFERENCE


def test_damaged_results_are_not_committed(tmp_path: Path) -> None:
    run = tmp_path / "outputs" / "cpu"
    write_text(run / "report.html", "")
    write_json(run / "results" / "claims.json", [])
    write_text(run / "figures" / "figure3.svg", "<svg/>")
    keep_record(run / "results", run / "results" / "claims.json")
    keep_record(run / "figures", run / "figures" / "figure3.svg")
    write_text(run / "figures" / "figure3.svg", "<svg></svg>")
    with pytest.raises(SettingsError, match=r"figures is damaged: figure3\.svg has 11 bytes and not the 6"):
        reference(tmp_path)
    assert not (tmp_path / "outputs" / "reference").exists()


def test_the_committed_reference_is_as_its_records_say() -> None:
    committed = [path for part in ("results", "figures", "notebooks") for path in (FOLDER / part).iterdir()]
    committed = [*(path for path in committed if path.name != KEPT and path.suffix != ".lock"), FOLDER / REPORT]
    assert len(committed) > 20 and all(intact(path) for path in committed)
    assert all((FOLDER / part / KEPT).is_file() for part in ("", "results", "figures", "notebooks"))


def test_the_committed_reference_fits_the_code() -> None:
    """What it was made with: today's settings, rules, claims and arms. Else `make reproduce` and `make reference`."""
    settings, today = open_finished(FOLDER).settings, resolve(profile="cpu")
    seeds = {"seeds": settings.evaluation.seeds}  # it has more of them than the default
    evaluation = today.evaluation.model_copy(update=seeds)
    assert settings == today.model_copy(update={"run_dir": settings.run_dir, "evaluation": evaluation})
    claims = read_claims(FOLDER)
    rules = {name: rule.rule for name, rule in RULES.items()}
    rules |= {claim["claim"]: claim["rule"] for claim in gate_claims(CLAMPS.table([]))}  # a study's own come last
    assert [(claim["claim"], claim["rule"]) for claim in claims] == list(rules.items())
    assert {claim["rules"] for claim in claims} == {VERSION}
    assert len(finished_arms(open_finished(FOLDER))) == 2


@pytest.mark.parametrize("name", EXECUTED)
def test_an_executed_notebook_shows_its_pictures_where_it_is_not_trusted(name: str) -> None:
    path = FOLDER / "notebooks" / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert (pictures or name.startswith("03")) and not [one for one in outputs if one["output_type"] == "error"]
    page, _ = HTMLExporter(template_name="basic", sanitize_html=True).from_filename(str(path))
    assert page.count("data:image/png") == len(pictures) and "<script" not in page
    assert not re.findall(r"/(?:tmp|home|root|work|Users)/\S*", text)


def test_the_studys_verdicts_stand_in_a_column_of_their_own() -> None:
    record = {"claim": "perplexity", "verdict": "contradicted", "where": "pretrained", "size": "64x4", "seeds": 10}
    with_study, without = results_in_markdown(FOLDER, [record]), results_in_markdown(FOLDER, [])
    assert "| contradicted (pretrained, 10 seeds, 64x4) |" in with_study[2] and "study.md" in with_study[1]
    assert "The study" not in without[2] and with_study[3:] == without[3:]
