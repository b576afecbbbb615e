"""What is written about the program is what the program does: reference, commands, specs, links, pictures."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

DOCS = tiny.ROOT / "docs"
PAGES = sorted([*tiny.ROOT.glob("*.md"), *DOCS.glob("*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def script(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS))


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [text for language, text in FENCED.findall(page.read_text("utf-8")) if language in languages]


def commands(page: Path) -> list[list[str]]:
    """The arguments of every llmspec command in a page's shell blocks, continued lines joined."""
    found = []
    for block in blocks(page, "sh", "console"):
        for line in block.replace("\\\n", " ").split("\n"):
            for part in re.split(r"&&|\|", line.split("  #")[0].lstrip("$ ")):
                if re.match(r"\s*(\S*/)?llmspec ", part):
                    found.append(shlex.split(part)[1:])
    return found


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_reference_is_the_programs_own() -> None:
    """docs/reference.md is made anew by `python docs/generate.py`."""
    assert (DOCS / "reference.md").read_text("utf-8") == script("spec_reference").reference()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for one, other in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        target, _, anchor = (one or other).partition("#")
        if target.startswith(("http://", "https://")):
            continue
        to = (page.parent / target) if target else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page: Path) -> None:
    """Every verb and option that a page shows is known to the program."""
    import typer

    from llmspec.cli.app import app

    group: Any = typer.main.get_command(app)
    for words in commands(page):
        if words[0].startswith("-"):
            continue
        assert words[0] in group.commands, words
        known = {o for p in group.commands[words[0]].params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        assert {w.split("=")[0] for w in words if re.match(r"--?[a-z]", w)} <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_specs_are_specs(page: Path, tmp_path: Path) -> None:
    """Every whole spec in a page is one that compiles."""
    import llmspec

    for text in blocks(page, "yaml"):
        if re.search(r"^name:", text, re.MULTILINE):
            (tmp_path / "spec.yaml").write_text(text, "utf-8")
            assert llmspec.compile(llmspec.load_spec(tmp_path / "spec.yaml").spec).name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    if page.name in ("LOG.md", "CHANGELOG.md"):  # they tell of what was there once
        return
    text = page.read_text("utf-8")
    named = re.findall(r"(?<![\w/.])((?:tests|docs|specs|llmspec)/[\w/.-]+\.\w+)", text)
    named += re.findall(r"`((?!runs/)\w+/[\w/]*(?:\.py|\.c|/))`", text)  # below the package
    places = (tiny.ROOT, tiny.ROOT / "llmspec", tiny.ROOT / "tests")
    assert not [n for n in named if "KIND" not in n and not any((place / n).exists() for place in places)]


def test_the_picture_of_the_layers_is_right() -> None:
    """docs/architecture.md draws every package once, each layer above what it may import."""
    from test_architecture import LAYERS

    (picture,) = (b for b in blocks(DOCS / "architecture.md", "") if "│ cli " in b)
    lines = {name: i for i, line in enumerate(picture.split("\n")) for name in re.findall(r"[│▶] (\w+)  ", line)}
    drawn = [packages - {"llmspec", "__main__"} for packages in LAYERS if packages - {"llmspec", "__main__"}]
    assert set(lines) == {name for packages in drawn for name in packages}
    for below, above in itertools.pairwise(drawn):
        assert max(lines[name] for name in above) < min(lines[name] for name in below)


def test_the_readme_names_every_part() -> None:
    from llmspec import parts

    rows = (tiny.ROOT / "README.md").read_text("utf-8").split("| section | parts |")[1].split("\n\n")[0]
    for module in pkgutil.iter_modules(parts.__path__):
        if module.ispkg:
            for name in importlib.import_module(f"llmspec.parts.{module.name}").TABLE:
                assert re.search(rf"\b{name}\b", rows), f"{module.name}: {name}"


def test_the_mistakes_in_the_readme_are_reported_like_this() -> None:
    (shown,) = (b for b in blocks(tiny.ROOT / "README.md", "console") if "llmspec check" in b)
    command, _, output = shown.removeprefix("$ llmspec ").partition("\n")
    said = tiny.call(*shlex.split(command), COLUMNS="100", NO_COLOR="1")
    assert re.sub(r"^\S*/(?=quickstart\.yaml)", "", said.stderr) == output and said.returncode == 2


def test_the_readme_is_short() -> None:
    assert len((tiny.ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    ("shown", "new", "renewed"),
    [
        (["old"], ["new 1", "new 2"], ["new 1", "new 2"]),
        (["a 1", "  ⋮"], ["a 2", "b"], ["a 2", "  ⋮"]),
        (["  ⋮", "b 7", "c"], ["a", "b 8", "d", "e"], ["  ⋮", "b 8", "d"]),
        (["x 1", "  ⋮", "s 5"], ["x 2", "s 1", "s 2", "s 3"], ["x 2", "  ⋮", "s 3"]),
        (["  ⋮", "2  model"], ["1  model", "2  model"], ["  ⋮", "2  model"]),
    ],
)
def test_an_output_takes_the_place_of_an_older_one(shown: list[str], new: list[str], renewed: list[str]) -> None:
    module = script("transcript")
    assert list(module.renewed(shown, new)) == renewed
    if "  ⋮" in shown:
        with pytest.raises(ValueError, match="nothing is printed like"):
            list(module.renewed(shown, ["entirely", "other"]))


@pytest.mark.parametrize("name", ["run", "explain"])
def test_pictures_can_be_drawn_and_say_nothing_of_their_machine(name: str) -> None:
    text = (DOCS / f"{name}.svg").read_text("utf-8")
    picture = ElementTree.fromstring(text)
    assert picture.tag.endswith("svg") and len(list(picture.iter())) > 50
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert re.search("@keyframes", text)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("one\r\ntwo", ["one", "two", ""]),
        ("one\rTWO", ["TWO", "", ""]),
        ("one\r\ntwo\x1b[1A\x1b[2K\rthree", ["three", "two", ""]),
        ("one\r\ntwo\r\nthree\r\nfour", ["two", "three", "four"]),
        ("a\x1b[31mb\x1b[0m\x1b[?25lc", ["abc", "", ""]),
        ("0123456789ab", ["0123456789", "ab", ""]),
        ("猫c", ["猫c", "", ""]),
        ("one\r\ntwo\x1b[H\x1b[J", ["", "", ""]),
    ],
)
def test_a_terminal_shows(written: str, shown: list[str]) -> None:
    terminal = script("terminal").Terminal(10, 3)
    terminal.feed(written)
    assert ["".join(c for c, _ in line) for line in terminal.screen()] == shown


def test_a_terminal_knows_colours() -> None:
    module = script("terminal")
    terminal = module.Terminal(10, 3)
    terminal.feed("\x1b[1;31ma\x1b[22;38;5;196mb\x1b[39;48;2;1;2;3mc\x1b[0md")
    looks = [style for _, style in terminal.screen()[0]]
    assert looks == [
        module.Style(color=module.PALETTE[1], bold=True),
        module.Style(color="#ff0000"),
        module.Style(background="#010203"),
        module.PLAIN,
    ]
    with pytest.raises(ValueError, match="unknown control"):
        terminal.feed("\x1b[5n")


@given(st.lists(st.sampled_from(["ab", "\r\n", "\x1b[1A", "\x1b[2K", "\x1b[1;32m", "é", "\x1b[0m"])), st.integers(1, 5))
def test_pieces_of_output_make_one_output(pieces: list[str], size: int) -> None:
    """However a program's output is cut into pieces, the screen is the same."""
    module, text = script("terminal"), "".join(pieces)
    whole, cut = module.Terminal(7, 4), module.Terminal(7, 4)
    whole.feed(text)
    for at in range(0, len(text), size):
        cut.feed(text[at : at + size])
    assert whole.screen() == cut.screen() and whole.written() == cut.written()
