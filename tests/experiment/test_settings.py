"""Settings: what is laid over what, and that every mistake is named before any work is done."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rwkvgate.experiment.places import place, place_or_name
from rwkvgate.experiment.settings import (
    PROFILE_VARIABLE,
    PROFILES,
    CheckpointSettings,
    ModelSettings,
    merge,
    resolve,
    resolve_profile,
)
from rwkvgate.gate.validation import SettingsError

SCHEDULE = {
    "steps": 20,
    "batch_size": 4,
    "length": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "weight_decay": 0.0,
    "gradient_checkpointing": False,
}
PROFILE: dict[str, Any] = {
    "profile": "cpu",
    "run_dir": "",
    "model": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "head_size": 8,
        "time_mix_rank": 4,
        "time_decay_rank": 4,
        "pretraining": SCHEDULE,
    },
    "corpus": {
        "source": "stories",
        "documents": 100,
        "hub": [],
        "natural_characters": 20_000,
        "seed": 0,
        "prompt_tokens": [5, 10],
        "splits": [0.8, 0.1, 0.1],
    },
    "gate": {},
    "training": SCHEDULE
    | {"scope": "all", "learning_rates": [], "log_every": 1, "eval_every": 5}
    | {"processes": 1, "sharded": False, "report_to": "none"},
    "evaluation": {
        "documents": 10,
        "new_tokens": 8,
        "batch_size": 4,
        "arms": ["base", "enhanced"],
        "seeds": 1,
        "resamples": 100,
        "latency_tokens": 10,
        "latency_repeats": 3,
        "timed_tokens": 5,
        "studies": True,
        "probes": 2,
        "longest": 256,
    },
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write(profile, text)`: put a profile file in a checkout of its own, the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    (tmp_path / "params").mkdir()

    def put(profile: str = "cpu", content: Any = PROFILE) -> Path:
        path = tmp_path / "params" / f"{profile}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    put()
    return put


def changed(path: str, value: Any) -> dict[str, Any]:
    """The profile with one value, at a dotted path, set."""
    profile = copy.deepcopy(PROFILE)
    *parents, last = path.split(".")
    section = profile
    for parent in parents:
        section = section[parent]
    section[last] = value
    return profile


def refused(*parts: str, **arguments: Any) -> None:
    with pytest.raises(SettingsError) as error:
        resolve(**({"profile": "cpu"} | arguments))
    missing = [part for part in parts if part not in str(error.value)]
    assert not missing, f"{missing} not in: {error.value}"


def test_a_profile_alone_is_what_its_file_says(write: Write) -> None:
    settings = resolve("cpu")
    found = settings.model_dump(mode="json")
    assert found == PROFILE


def test_overrides_are_laid_over_the_profile_key_by_key(write: Write) -> None:
    settings = resolve(
        "cpu",
        model={"pretraining": {"steps": 7}},
        corpus={"prompt_tokens": [1, 2]},
        gate={"norm": "none"},
        training={"steps": 9, "learning_rate": 0.5},
    )
    assert settings.model.pretraining.steps == 7 and settings.model.pretraining.length == 16
    assert settings.corpus.prompt_tokens == (1, 2) and settings.gate == {"norm": "none"}
    assert settings.training.steps == 9 and settings.training.learning_rate == 0.5
    assert resolve("cpu").training.steps == 20, "the profile itself must not have changed"


def test_merging_leaves_both_sides_alone() -> None:
    below, above = {"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "b": {"z": 1}, "c": [1]}
    kept = copy.deepcopy((below, above))
    assert merge(below, above) == {"a": {"x": 1, "y": 3}, "b": {"z": 1}, "c": [1]}
    assert (below, above) == kept


def test_empty_sections_may_be_left_empty_in_the_file(write: Write) -> None:
    write("cpu", yaml.safe_dump(PROFILE).replace("gate: {}", "gate:"))
    assert resolve("cpu").gate == {}


@pytest.mark.parametrize("folder", [".", "notebooks", "notebooks/deep"])
def test_the_checkout_is_found_from_below(write: Write, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    root = Path.cwd()
    (root / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(root / folder)
    assert resolve("cpu").folder == root / "outputs" / "cpu"
    assert resolve("cpu", run_dir="elsewhere").folder == root / "elsewhere"
    assert resolve("cpu", run_dir=str(root / "x")).folder == root / "x"


# --- profiles --------------------------------------------------------------------------------------


def test_a_relative_path_means_the_same_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "params").mkdir()  # no checkout's
    for folder in (root, root / "notebooks", tmp_path):
        monkeypatch.chdir(folder)
        assert place("texts/mine.txt") == root / "texts/mine.txt"
        assert place(str(tmp_path)) == tmp_path
        assert place("~/mine") == Path.home() / "mine"
        assert place_or_name("params") == str(root / "params")
        assert place_or_name("owner/name") == "owner/name"
        assert resolve(profile="smoke", run_dir="outputs/other").folder == root / "outputs/other"


def test_an_unknown_profile_is_refused(write: Write) -> None:
    refused("unknown profile 'cqu'", "did you mean 'cpu'", profile="cqu")
    refused("unknown profile 'zzz'", *PROFILES, "auto", profile="zzz")
    refused("unknown profile", "3", *PROFILES, profile=3)


def test_the_environment_says_what_auto_means(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("smoke", PROFILE | {"profile": "smoke"})
    monkeypatch.setenv(PROFILE_VARIABLE, "smoke")
    assert resolve().profile == "smoke"
    assert resolve("cpu").profile == "cpu", "a profile that is named is not overruled"


@pytest.mark.parametrize("value", ["", "auto"])
@pytest.mark.parametrize(
    ("gib", "profile"), [(None, "cpu"), (7.6, "gpu"), (14.563, "t4"), (22.2, "t4"), (39.6, "t4")]
)  # no GPU, a small one, T4, L4, A100
def test_auto_takes_the_paper_s_model_wherever_its_memory_is(
    monkeypatch: pytest.MonkeyPatch, value: str, gib: float | None, profile: str
) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gib is not None)
    device = SimpleNamespace(total_memory=int((gib or 0) * 2**30))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: device)
    assert resolve_profile("auto") == profile


def test_a_bad_profile_in_the_environment_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, "smokey")
    refused(PROFILE_VARIABLE, "'smokey'", "did you mean 'smoke'", profile="auto")


def test_a_missing_file_is_named(write: Write) -> None:
    refused("gpu.yaml", "'gpu'", "belongs to the checkout", profile="gpu")


@pytest.mark.parametrize(("content", "kind"), [("- 1\n- 2\n", "list"), ("", "NoneType"), ("word", "str")])
def test_a_file_that_is_no_mapping_is_refused(write: Write, content: str, kind: str) -> None:
    path = write("cpu", content)
    refused(str(path), kind, "must be a mapping")


def test_a_file_that_is_no_yaml_is_refused(write: Write) -> None:
    path = write("cpu", "model: [1, 2\ntraining: }")
    refused(str(path), "not valid YAML")


@pytest.mark.parametrize("section", ["model", "corpus", "gate", "training", "evaluation"])
def test_a_section_that_is_no_mapping_is_refused(write: Write, section: str) -> None:
    refused(section, "list", "mapping", **{section: [1]})
    refused(section, "str", "mapping", **{section: "steps=3"})
    write("cpu", PROFILE | {section: 3})
    refused(section, "int", "mapping", "params/cpu.yaml")


# --- keys and values -------------------------------------------------------------------------------


def test_unknown_keys_are_named_with_the_nearest_known_one(write: Write) -> None:
    refused("unknown key 'training.stpes'", "params/cpu.yaml", "'training.steps'", training={"stpes": 3})
    refused("'model.pretraining.lenght'", "'model.pretraining.length'", model={"pretraining": {"lenght": 8}})
    write("cpu", PROFILE | {"trainng": {"steps": 3}})
    refused("unknown key 'trainng'", "did you mean 'training'")
    write("cpu", PROFILE | {"trainng.steps": 3})
    refused("unknown key 'trainng.steps'", "did you mean 'training.steps'")
    write("cpu", PROFILE | {3: 4})
    refused("3", "params/cpu.yaml")


def test_a_key_like_no_other_is_answered_with_its_neighbours(write: Write) -> None:
    refused("'corpus.qqqqqqqq'", "allowed", "corpus.documents", "corpus.seed", corpus={"qqqqqqqq": 1})


def test_every_mistake_is_reported_at_once(write: Write) -> None:
    refused("training.stpes", "model.hidden_size", training={"stpes": 3}, model={"hidden_size": "wide"})


def test_a_missing_key_is_named(write: Write) -> None:
    profile = copy.deepcopy(PROFILE)
    del profile["model"]["head_size"], profile["evaluation"]
    write("cpu", profile)
    refused("missing key 'model.head_size'", "missing key 'evaluation.documents'")


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("training.learning_rate", "1e-4", "str"),
        ("training.steps", "20", "str"),
        ("training.steps", 20.0, "float"),
        ("training.steps", True, "bool"),
        ("model.hidden_size", None, "NoneType"),
        ("model.pretraining.batch_size", [4], "tuple"),
        ("corpus.source", 3, "int"),
        ("corpus.splits", 0.8, "float"),
        ("training.scope", 1, "int"),
    ],
)
def test_values_of_another_type_are_refused(write: Write, path: str, value: Any, kind: str) -> None:
    write("cpu", changed(path, value))
    refused(path, f"({kind})", "params/cpu.yaml", *([repr(value)] if kind != "tuple" else []))


def test_yaml_reads_1e_4_as_a_string_and_that_is_said(write: Write) -> None:
    write("cpu", yaml.safe_dump(PROFILE).replace("learning_rate: 0.001", "learning_rate: 1e-4"))
    refused("training.learning_rate is '1e-4' (str)", "number")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.steps", 0),
        ("training.length", 7),
        ("training.learning_rate", 0.0),
        ("training.learning_rate", 1.0),
        ("training.learning_rate", float("nan")),
        ("training.weight_decay", -0.1),
        ("training.weight_decay", float("nan")),
        ("training.scope", "some"),
        ("model.vocab_size", 65537),
        ("model.pretraining.warmup_steps", -1),
        ("corpus.seed", -1),
        ("corpus.prompt_tokens.0", 0),
        ("corpus.splits.1", 1.0),
        ("evaluation.resamples", 99),
        ("evaluation.latency_repeats", 2),
        ("corpus.seed", 2**32),
        ("training.steps", 10**30),
        ("training.batch_size", 0),
        ("training.length", 10**9),
        ("model.hidden_size", 10**12),
        ("model.num_hidden_layers", 0),
        ("evaluation.seeds", 10**9),
        ("evaluation.documents", 0),
        ("evaluation.batch_size", 0),
        ("corpus.natural_characters", 10**30),
    ],
)
def test_impossible_values_are_refused(write: Write, path: str, value: Any) -> None:
    if path[-1].isdigit():
        head, index = path.rsplit(".", 1)
        numbers = list(PROFILE["corpus"][head.rpartition(".")[2]])
        numbers[int(index)] = value
        write("cpu", changed(head, numbers))
    else:
        write("cpu", changed(path, value))
    refused(path, repr(value), "params/cpu.yaml")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("training.warmup_steps", 20, "warmup_steps is 20; it must be below steps, 20"),
        ("model.head_size", 7, "hidden_size is 32; it must be a multiple of head_size, 7"),
        ("corpus.splits", [0.8, 0.1, 0.2], "they must sum to 1"),
        ("corpus.prompt_tokens", [9, 5], "the first must not exceed the second"),
        ("corpus.prompt_tokens", [5], "prompt_tokens"),
        (
            "training",
            PROFILE["training"] | {"steps": 10**6, "batch_size": 2**10},
            "steps x batch_size is 1,024,000,000",
        ),
        (
            "training",
            PROFILE["training"] | {"batch_size": 2**10, "length": 2**20},
            "batch_size x length is 1,073,741,824",
        ),
        ("model", PROFILE["model"] | {"hidden_size": 2**15, "num_hidden_layers": 1000}, "at most 20,000,000,000"),
    ],
)
def test_values_that_contradict_each_other_are_refused(write: Write, path: str, value: Any, said: str) -> None:
    write("cpu", changed(path, value))
    refused(path.split(".")[0], said, "params/cpu.yaml")


@pytest.mark.parametrize(("argument", "value"), [("run_dir", None), ("run_dir", 3)])
def test_bad_arguments_are_refused(write: Write, argument: str, value: Any) -> None:
    refused(argument, repr(value), **{argument: value})


@pytest.mark.parametrize("name", ["a\nb", "a ", "\u202ea", "a\0", "x" * 300])
@pytest.mark.parametrize("where", ["run_dir", "corpus.source", "model.checkpoint"])
def test_names_hold_no_unseen_characters(write: Write, where: str, name: str) -> None:
    section, _, key = where.partition(".")
    refused(where, "is too long" if len(name) == 300 else "", **{section: {key: name} if key else name})


def test_a_value_that_is_too_long_to_show_is_cut(write: Write) -> None:
    for value in ("x" * 10**6, 10**9000, ["y"] * 5000):
        with pytest.raises(SettingsError) as error:
            resolve("cpu", training={"steps": value})
        assert "training.steps is " in str(error.value) and len(str(error.value)) < 400


def test_aliases_that_stand_for_more_than_a_memory_holds_are_refused(write: Write) -> None:
    lines = ["a: &l0 [x, x]"] + [f"b{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30)]
    for gate in ("{" + ", ".join(lines) + "}", "&g {again: *g}"):
        write("cpu", yaml.safe_dump(PROFILE).replace("gate: {}", f"gate: {gate}"))
        refused("at most 10,000 values, 16 levels deep")


def test_a_files_run_dir_holds_and_its_profile_is_its_name(write: Write) -> None:
    write("cpu", PROFILE | {"run_dir": "outputs/mine"})
    assert resolve("cpu").run_dir == "outputs/mine" and resolve("cpu", run_dir="other").run_dir == "other"
    write("cpu", PROFILE | {"run_dir": 20261124})
    refused("run_dir is 20261124 (int)")
    write("cpu", PROFILE | {"profile": "gpu"})
    refused("params/cpu.yaml says profile 'gpu'; it must say 'cpu'")


def test_settings_are_frozen(write: Write) -> None:
    settings = resolve("cpu")
    with pytest.raises(ValidationError):
        settings.run_dir = "x"
    with pytest.raises(ValidationError):
        settings.training.steps = 1


# --- a checkpoint in the place of sizes ------------------------------------------------------------


def test_a_checkpoint_passes_over_the_profiles_sizes(write: Write) -> None:
    write()
    model = resolve("cpu", model={"checkpoint": "some/checkpoint", "dtype": "float16"}).model
    assert isinstance(model, CheckpointSettings)
    assert model.model_dump() == {"checkpoint": "some/checkpoint", "revision": "", "dtype": "float16"}
    assert isinstance(resolve("cpu").model, ModelSettings)


def test_a_checkpoints_keys_are_checked(write: Write) -> None:
    write()
    refused(
        "model.dtype is 'float8'", "'float32', 'float16' or 'bfloat16'", model={"checkpoint": "x", "dtype": "float8"}
    )
    refused(
        "unknown key 'model.revison'", "did you mean 'model.revision'", model={"checkpoint": "x", "revison": "main"}
    )
    refused("model.checkpoint is ''", "at least 1 character", model={"checkpoint": ""})
    refused("unknown key 'model.hiden_size'", "did you mean 'model.hidden_size'", model={"hiden_size": 3})


# --- the arms of a run -----------------------------------------------------------------------------


def test_the_arms_hold_the_base_once(write: Write) -> None:
    write()
    refused("evaluation", "'base' must be one", evaluation={"arms": ["enhanced"]})
    refused("evaluation", "each may stand there once", evaluation={"arms": ["base", "base"]})
