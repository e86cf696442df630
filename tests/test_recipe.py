"""Recipes: what is read, and every sentence said about a wrong one."""

import json
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import option_reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.base.errors import UsageError
from compress.recipe import load, yaml
from compress.steps import STEPS

ROOT = Path(__file__).parents[1]
WORDS = "ab1 :-~e.xon"
"""Letters of text in generated values."""
GOOD = """
schema: 1
name: good
model: {name: ddnet, residual: true}
data: {source: phantom, image_size: 64}
seed: 3
steps:
  - train: {epochs: 2, lr: 1e-4}
  - prune: {amount: 0.5, round_to: 8}
  - retrain: {epochs: 1}
  - sparsify: {pattern: "2:4"}
  - retrain:
      epochs: 4
  - report
"""
SHARE = "; it is a share, 0.5 for 50 %"
"""End of the sentence on an amount that is none."""


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """One option of every type that steps may have."""

    count: int
    share: float | None = None
    on: bool = False
    word: str = "a"
    choice: Literal["mean", "no"] = "mean"
    names: tuple[str, ...] = ()
    span: tuple[int, int] = (1, 2)
    widths: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write r.yaml in the working folder and give its relative path."""
    monkeypatch.chdir(tmp_path)

    def writer(text):
        Path("r.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
        return Path("r.yaml")

    return writer


def knobs(write, options, *overrides):
    """The one step `turn` of a recipe, with these options."""
    head = "schema: 1\nmodel: {name: ddnet}\nsteps:\n"
    path = write(f"{head}  - turn: {options}\n")
    ((_, step),) = load(path, overrides, {"turn": Knobs}).steps
    return step


def refusal(path, *overrides):
    with pytest.raises(UsageError) as caught:
        load(path, overrides)
    return str(caught.value)


def steps(*lines):
    return "schema: 1\nmodel: {name: ddnet}\nsteps:\n" + "".join(f"  - {x}\n" for x in lines)


def test_a_recipe_is_read_into_typed_frozen_values(write):
    recipe = load(write(GOOD))
    assert (recipe.name, recipe.seed, recipe.schema) == ("good", 3, 1)
    assert [word for word, _ in recipe.steps] == [
        "train", "prune", "retrain", "sparsify", "retrain", "report",
    ]  # fmt: skip
    train, prune, _, sparsify, last, _ = (step for _, step in recipe.steps)
    assert isinstance(train, STEPS["train"])
    assert (train.epochs, train.lr, last.epochs) == (2, 1e-4, 4)
    assert (prune.amount, prune.round_to, sparsify.pattern) == (0.5, 8, "2:4")
    assert recipe.model.options == {"residual": True}
    assert (recipe.data.source, recipe.data.image_size) == ("phantom", 64)
    assert recipe.text == GOOD


def test_sections_that_may_be_left_out_have_defaults(write):
    recipe = load(write(steps("evaluate")))
    assert (recipe.name, recipe.seed, recipe.data.source) == ("r", 0, "demo")


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ("{count: 3}", "count", 3),
        ("{count: 0x10}", "count", 16),
        ("{count: 1, share: 1e-4}", "share", 1e-4),
        ("{count: 1, share: 1}", "share", 1.0),
        ("{count: 1, share: null}", "share", None),
        ("{count: 1, on: TRUE}", "on", True),
        ("{count: 1, word: plain text}", "word", "plain text"),
        ("{count: 1, word: 2026-01-02}", "word", "2026-01-02"),
        ('{count: 1, choice: "no"}', "choice", "no"),
        ("{count: 1, choice: no}", "choice", "no"),
        ("{count: 1, word: no}", "word", "no"),
        ("{count: 1, word: 2:4}", "word", "2:4"),
        ("{count: 1, word: '7'}", "word", "7"),
        ("{count: 010}", "count", 10),
        ("{count: 0o10}", "count", 8),
        ("{count: 1, share: -.5E-1}", "share", -0.05),
        ("{count: 1, share: 5.}", "share", 5.0),
        ("{count: 1, names: [a.*, b]}", "names", ("a.*", "b")),
        ("{count: 1, names: []}", "names", ()),
        ("{count: 1, span: [1, 16]}", "span", (1, 16)),
        ("{count: 1, widths: {stem.conv: 8}}", "widths", {"stem.conv": 8}),
        ("{count: 1, widths: ~}", "widths", None),
    ],
)
def test_values_take_the_type_of_their_option(write, options, name, value):
    found = getattr(knobs(write, options), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", ": count is missing; it must be a whole number"),
        ("{count: 0}", ": count must be at least 1, got 0"),
        ("{count: many}", ".count: expected a whole number, got 'many'"),
        ("{count: }", ".count: expected a whole number, got nothing"),
        ("{count: yes}", ".count: expected a whole number, got 'yes'"),
        ("{count: true}", ".count: expected a whole number, got true"),
        ("{count: 1.5}", ".count: expected a whole number, got 1.5"),
        ("{count: 1_000}", ".count: expected a whole number, got '1_000'"),
        ("{count: 1:30}", ".count: expected a whole number, got '1:30'"),
        (
            '{count: "1"}',
            ".count: expected a whole number, got '1'; leave out the quotes",
        ),
        ('{count: "many"}', ".count: expected a whole number, got 'many'"),
        ("{count: [1]}", ".count: expected a whole number, got a list"),
        ("{count: {a: 1}}", ".count: expected a whole number, got options by name"),
        ("{count: 1, share: half}", ".share: expected a number, got 'half'"),
        (
            "{count: 1, share: 62.5%}",
            ".share: expected a number, got '62.5%'; write the share, 0.625 for 62.5 %",
        ),
        ("{count: 1, share: .nan}", ".share: expected a number, got nan"),
        ("{count: 1, share: 1e999}", ".share: expected a number, got inf"),
        (f"{{count: 1, share: {10**309}}}", f".share: expected a number, got {10**59}"),
        ("{count: 1, on: maybe}", ".on: expected true or false, got 'maybe'"),
        ("{count: 1, on: 1}", ".on: expected true or false, got 1"),
        ("{count: 1, on: yes}", ".on: expected true or false, got 'yes'; write true"),
        ("{count: 1, on: Off}", ".on: expected true or false, got 'Off'; write false"),
        ("{count: 1, word: 7}", ".word: expected text, got 7; put it in quotes"),
        ("{count: 1, word: true}", ".word: expected text, got true; put it in quotes"),
        ("{count: 1, word: null}", ".word: expected text, got nothing"),
        ("{count: 1, word: [a]}", ".word: expected text, got a list"),
        (
            "{count: 1, choice: meen}",
            ".choice: expected one of mean, no, got 'meen'; did you mean 'mean'?",
        ),
        ("{count: 1, choice: 3}", ".choice: expected one of mean, no, got 3"),
        ("{count: 1, names: a}", ".names: expected a list, each text, got 'a'; write [a]"),
        ("{count: 1, names: 3}", ".names: expected a list, each text, got 3; write [3]"),
        ("{count: 1, names: [a, 3]}", ".names[1]: expected text, got 3; put it in quotes"),
        (
            "{count: 1, span: [1]}",
            ".span: expected a list of 2: a whole number, a whole number, got a list of 1",
        ),
        ("{count: 1, span: [1, b]}", ".span[1]: expected a whole number, got 'b'"),
        ("{count: 1, widths: [1]}", ".widths: expected options by name, got a list"),
        ("{count: 1, widths: {a: b}}", ".widths.a: expected a whole number, got 'b'"),
        ("{count: 1, cuont: 1}", ": unknown option 'cuont'; did you mean 'count'?"),
        ("3", ": expected options by name, got 3"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(write, options, sentence):
    with pytest.raises(UsageError) as caught:
        knobs(write, options)
    assert str(caught.value) == f"r.yaml: steps[0].turn{sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected sections such as model and steps, got nothing"),
        ("- a", "expected sections such as model and steps, got a list"),
        (steps("prun: {amount: 0.5}"), "steps[0]: unknown step 'prun'; did you mean 'prune'?"),
        (
            steps("xyz"),
            "steps[0]: unknown step 'xyz'; possible are train, prune, retrain, sparsify, "
            "quantize, baseline, evaluate, export, report",
        ),
        (
            steps("train: {epochs: 1}", "prune: {amuont: 0.5}"),
            "steps[1].prune: unknown option 'amuont'; did you mean 'amount'?",
        ),
        (
            steps("prune: {amount: 1.5}"),
            f"steps[0].prune: amount must lie in (0, 1), got 1.5{SHARE}",
        ),
        (
            steps("sparsify: {pattern: 2:3}"),
            "steps[0].sparsify.pattern: expected \"2:4\", got '2:3'; did you mean '2:4'?",
        ),
        (
            steps("sparsify: {pattern: 124}"),
            "steps[0].sparsify.pattern: expected \"2:4\", got 124",
        ),
        (
            steps("train: {epochs: 1, epochs: 2}"),
            "'epochs' is given twice, in lines 4 and 4; keep one",
        ),
        ("name: a\nname: b", "'name' is given twice, in lines 1 and 2; keep one"),
        ("1: a\n'1': b", "'1' is given twice, in lines 1 and 2; keep one"),
        ("a: 1\n<<: {a: 2}", "unknown section 'a'; possible are schema, name, model, data, "
         "seed, reseed, epochs_total, steps"),
        ("a: &x 1\nb: *x", "line 1: anchors (&), aliases (*) and tags (!) are not allowed; "
         "write the value out, or quote it where it is text"),
        (
            steps("prune: {ignore: [*.conv]}"),
            "line 4: anchors (&), aliases (*) and tags (!) are not allowed; "
            "write the value out, or quote it where it is text",
        ),
        ("a: !!python/object:os.system 1", "line 1: anchors (&), aliases (*) and tags (!) are "
         "not allowed; write the value out, or quote it where it is text"),
        ("a: 1\n b: 2", "line 2: broken YAML: mapping values are not allowed here"),
        ("steps:\n  - train\n  -report\n", "near line 3: broken YAML: while scanning a simple key, "
         "could not find expected ':'; write a blank behind '-' in line 3: `- report`"),
        ("steps:\n  -train: {a: 1}\n  - report\n", "line 3: broken YAML: while parsing a block "
         "mapping, expected <block end>, but found '-'; "
         "write a blank behind '-' in line 2: `- train`"),
        ("a: 1\nreport\n", "near line 2: broken YAML: while scanning a simple key, "
         "could not find expected ':'"),
        (
            "a: 1\n---\nb: 2",
            "line 2: broken YAML: expected a single document in the stream, "
            "but found another document",
        ),
        ("a: \x07", "line 1: broken YAML: a control character"),
        ("[" * 5000, "lists and mappings are nested too deeply"),
        ("? [a]\n: 1", "line 1: a list or mapping cannot be the name of an option"),
        ("stpes: []", "unknown section 'stpes'; did you mean 'steps'?"),
        ("prune: {amount: 0.5}", "unknown section 'prune'; did you mean 'steps.prune'?"),
        ("schema: 1\nmodel: {}", "steps is missing; write for example `steps: [evaluate]`"),
        (
            "schema: 2\nmodel: {}\nsteps: []",
            "schema: this version reads schema 1, got 2",
        ),
        (
            "schema: 1\nmodel: {name: ddnet}\nsteps: train",
            "steps: expected a list with one step a line, such as `- report`, got 'train'",
        ),
        (
            "schema: 1\nmodel: {name: ddnet}\nsteps: []",
            "steps: expected a list with one step a line, such as `- report`, got an empty list",
        ),
        (
            "schema: 1\nmodel: {name: ddnet}\nsteps:\n- prune:\n  amount: 0.5",
            "steps[0]: prune is followed by amount; indent what belongs to prune deeper, "
            "or start a new line with '- '",
        ),
        ("schema: 1\nmodel: {name: ddnet}\nsteps:\n-", "steps[0]: expected a step, got nothing"),
        (
            "name: a/b\n" + steps("report"),
            "name: letters, digits, '.', '_' and '-' can be used, got 'a/b'",
        ),
        ("seed: -1\n" + steps("report"), "seed: must lie in [0, 2^63), got -1"),
        (
            "data: {sorce: demo}\n" + steps("report"),
            "data: unknown option 'sorce'; did you mean 'source'?",
        ),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_in_one_sentence(write, text, sentence):
    assert refusal(write(text)) == f"r.yaml: {sentence}"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("", "set either name (built-in) or import (your own), not both"),
        (
            "{name: ddnet, import: a:B}",
            "set either name (built-in) or import (your own), not both",
        ),
        ("ddnet", "expected options by name, got 'ddnet'"),
        ("{name: ddnett, trunk: 8}", "there is no network 'ddnett'; did you mean 'ddnet'?"),
        ("{name: ddnet, residul: true}", "unknown option 'residul'; did you mean 'residual'?"),
        ("{name: ddnet, wieghts: a}", "unknown option 'wieghts'; did you mean 'weights'?"),
        ("{name: ddnet, residual: 1}", "expected true or false, got 1"),
        ("{name: ddnet, trunk: 0}", "stem.conv needs at least 1 output channel, got 0"),
        ("{name: redcnn, channels: -1}", "redcnn cannot be built: Trying to create tensor with "
         "negative dimension -1: [-1, 1, 5, 5]"),
        ("{name: ddnet, widths: {x: 1}}", "DDnet has no convolution 'x'"),
        ("{name: redcnn, trunk: 8}", "unknown option 'trunk'; possible are channels, widths, "
         "name, weights"),
        ("{name: ddnet, weights: no.st}", "there is no file {folder}/no.st"),
        ("{import: my_nets}", "expected package.module:Class, got 'my_nets'"),
    ],
)  # fmt: skip
def test_a_wrong_network_is_refused_in_one_sentence(write, tmp_path, model, sentence):
    found = refusal(write(f"schema: 1\nmodel: {model}\nsteps: [evaluate]"))
    place, _, rest = found.removeprefix("r.yaml: ").partition(": ")
    assert place.partition(".")[0] == "model"
    assert rest == sentence.format(folder=tmp_path)


def test_a_network_of_ones_own_keeps_its_options_and_is_not_imported_yet(write, tmp_path):
    (tmp_path / "w.safetensors").touch()
    model = '{import: "nets:Mine", weights: w.safetensors, eps: 1e-4, of: 2:4, on: true, n: [1, ~]}'
    found = load(write(f"schema: 1\nmodel: {model}\nsteps: [evaluate]")).model
    assert (found.name, found.import_, found.folder) == (None, "nets:Mine", str(tmp_path))
    assert found.weights == str(tmp_path / "w.safetensors")
    assert found.options == {"eps": 1e-4, "of": "2:4", "on": True, "n": [1, None]}


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        (
            ("sparsify", "prune: {amount: 0.5}"),
            "steps[1].prune: steps[0].sparsify comes before it, and removing channels would "
            "destroy the 2:4 pattern; put prune first",
        ),
        (
            ("prune: {amount: 0.5}", "retrain: {epochs: 1}"),
            "steps[1].retrain: nothing was trained before; "
            "put train first or give model.weights",
        ),
        (
            ("report", "evaluate"),
            "steps[0].report: steps[1].evaluate comes after it, "
            "and report must be the last step",
        ),
    ],
)  # fmt: skip
def test_an_impossible_order_is_refused_with_its_reason(write, order, sentence):
    assert refusal(write(steps(*order))) == f"r.yaml: {sentence}"


@pytest.mark.parametrize(
    "order",
    [
        ("evaluate", "export"),
        ("prune: {amount: 0.2}", "train: {epochs: 1}", "prune: {amount: 0.3}"),
        ("train: {epochs: 1}", "evaluate", "retrain: {epochs: 1}", "sparsify", "report"),
    ],
)
def test_unusual_but_possible_orders_are_read(write, order):
    assert len(load(write(steps(*order))).steps) == len(order)


def test_retrain_may_come_first_where_weights_are_given(write, tmp_path):
    (tmp_path / "w").touch()
    text = steps("retrain: {epochs: 1}").replace("ddnet}", "ddnet, weights: w}")
    assert load(write(text)).steps


def changed(write, *overrides):
    return load(write(GOOD), overrides)


def test_overrides_change_values_of_one_run(write):
    overrides = (
        "seed=7", "model.residual=false", "model.trunk=8", "data.train_slices=100",
        "steps.1.amount=0.7", "steps[1].prune.round_to=32", "steps.sparsify.pattern=2:4",
        "steps.4.epochs=9", "steps.prune.ignore=[stem.conv]", "name=no",
    )  # fmt: skip
    recipe = changed(write, *overrides)
    prune, sparsify, last = (recipe.steps[i][1] for i in (1, 3, 4))
    assert (recipe.seed, recipe.name, recipe.data.train_slices) == (7, "no", 100)
    assert recipe.model.options == {"residual": False, "trunk": 8}
    assert (prune.amount, prune.round_to, prune.ignore) == (0.7, 32, ("stem.conv",))
    assert (sparsify.pattern, last.epochs) == ("2:4", 9)
    assert recipe.overrides == overrides
    assert recipe.text == GOOD


def test_an_override_may_add_a_section_or_options_to_a_bare_step(write):
    recipe = load(write(steps("sparsify")), ["data.source=phantom", "steps.0.at_least=0.5"])
    assert recipe.data.source == "phantom"
    assert recipe.steps[0][1].at_least == 0.5


def test_overrides_are_checked_together(write):
    recipe = changed(write, "steps.prune.amount=null", "steps.prune.threshold=-0.5")
    assert recipe.steps[1][1].threshold == -0.5


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("amount", "--set expects key=value, such as steps.prune.amount=0.7"),
        ("=1", "--set expects key=value, such as steps.prune.amount=0.7"),
        ("sede=1", "unknown section 'sede'; did you mean 'seed'?"),
        ("date.source=demo", "unknown section 'date'; did you mean 'data'?"),
        ("data.train_slice=1", "data: unknown option 'train_slice'; did you mean 'train_slices'?"),
        ("seed=many", "seed: expected a whole number, got 'many'"),
        ("seed.x=1", "seed: expected options by name, got 3"),
        ("seed={", "broken YAML: while parsing a flow node, expected the node content, "
         "but found '<stream end>'"),
        ("steps.prune.amuont=1", "steps[1].prune: unknown option 'amuont'; "
         "did you mean 'amount'?"),
        ("steps.prun.amount=1", "steps.prun: no such step in the recipe; did you mean 'prune'?"),
        ("steps.retrain.epochs=1", "steps.retrain: the recipe has this step more than once; "
         "write steps.2 or steps.4"),
        ("steps.9.epochs=1", "steps.9: the recipe's steps are numbered 0 to 5"),
        ("steps.prune=1", "steps.prune: name an option of the step too, "
         "as in steps.prune.amount"),
        ("steps.prune.amount=2", f"steps[1].prune: amount must lie in (0, 1), got 2.0{SHARE}"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_refused_in_one_sentence(write, override, sentence):
    assert refusal(write(GOOD), override) == f"r.yaml with --set {override}: {sentence}"


def test_a_mistake_in_the_file_is_not_blamed_on_an_override(write):
    assert refusal(write("a: 1"), "seed=1") == "r.yaml: unknown section 'a'; possible are " + (
        "schema, name, model, data, seed, reseed, epochs_total, steps"
    )


def test_paths_start_at_the_recipe_and_those_of_overrides_at_the_working_folder(
    tmp_path, monkeypatch
):
    (tmp_path / "sub").mkdir()
    (tmp_path / "here").mkdir()
    recipe = tmp_path / "sub" / "r.yaml"
    recipe.write_text(steps("evaluate") + "data: {source: folder, path: ../ct}")
    monkeypatch.chdir(tmp_path / "here")
    assert os.path.normpath(load(recipe).data.path) == str(tmp_path / "ct")
    assert load(recipe, ["data.path=ct"]).data.path == str(tmp_path / "here" / "ct")


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml"])
def test_a_recipe_without_its_ending_is_told_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(steps("evaluate"))
    assert refusal(Path("mine")).endswith(
        f"of that name comes with the package; did you mean {name}?"
    )


def test_an_unreadable_recipe_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(Path("no.yaml")) == "no.yaml: there is no such file"
    assert refusal(Path(".")) == ".: this is a folder; a recipe is a YAML file"
    Path("b.yaml").write_bytes(b"schema: 1\nname: \xff")
    assert refusal(Path("b.yaml")) == "b.yaml: line 2: this is not UTF-8 text"
    Path("c.yaml").write_bytes(b"# " + b"x" * 300_000)
    said = "c.yaml: the file is larger than 256 KiB, so it is no recipe"
    assert refusal(Path("c.yaml")) == said
    Path("d").touch()
    assert refusal(Path("d/r.yaml")) == "d/r.yaml: the file cannot be read: Not a directory"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("abn:-&*!{}[]'\"#|>?%@~<=1.e \n\t\x00é"), max_size=60))
def test_any_text_is_a_recipe_or_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    said = attempt(path)
    assert said is None or (said.startswith(f"{path}: ") and len(said.splitlines()) == 1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(WORDS),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(WORDS), inner),
        max_leaves=8,
    )
)
def test_json_is_yaml(value):
    """YAML 1.2 section 1.3: every JSON file is a YAML file; here infinity is .inf."""
    text = json.dumps(value, ensure_ascii=False)
    assert yaml.parse(text.replace("Infinity", ".inf")) == value


def attempt(path):
    """What is said against a recipe; None where it is read."""
    try:
        load(path)
    except UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_are_read_and_named_after_their_files(path):
    recipe = load(path)
    assert recipe.name == path.stem
    assert recipe.steps[-1][0] == "report" or path.stem.startswith("sweep_")


def test_the_readme_of_recipes_lists_every_option():
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    _, mark, table = text.partition(option_reference.MARK)
    assert mark + table == option_reference.reference(), (
        "run: python tools/option_reference.py recipes/README.md"
    )
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert recipe.name in text
