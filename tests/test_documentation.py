"""The documentation as a site: built strictly, notebooks executed, links followed, every page seen in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import typer

from tests.browser import browser
from xecml import oldconfig
from xecml.cli.commands import app
from xecml.cli.train import FLAGS
from xecml.events import BRANCHES
from xecml.recipes import describe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
needs_sphinx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("sphinx", "myst_nb", "furo")),
    reason="the site is built with the extra 'docs': pip install 'xecml[docs]'",
)


class Page(HTMLParser):
    """Links, sources of what it shows, ids and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.pictures_without_words: list[str] = []
        self.words: list[str] = []
        self._quiet = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._quiet = tag in ("script", "style")
        if values.get("id"):
            self.ids.add(values["id"] or "")
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        if tag in ("img", "script") and values.get("src"):
            self.loaded.append(values["src"] or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(values["href"] or "")
        if tag == "img" and not values.get("alt"):
            self.pictures_without_words.append(values.get("src") or "")

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The built site. Notebooks that ran with these sources before are not run again."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-b", "html",
               "-d", folder / "doctrees", DOCS, folder / "html"]  # fmt: skip
    # commands that other tests called in this process have set a backend that shows nothing in notebooks
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(found) > len(list(DOCS.glob("*.md")))
    return found


@pytest.mark.slow
@needs_sphinx
def test_links_among_pages_lead_somewhere_and_nothing_comes_from_elsewhere(pages: dict[Path, Page]) -> None:
    followed = 0
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            if target.startswith(("http://", "https://")):
                assert target not in page.loaded, f"{path.name} loads {target}, which needs a network"
                continue
            if target.startswith(("data:", "mailto:")):
                continue
            name, fragment = urldefrag(target)
            file = (path.parent / unquote(name.partition("?")[0])).resolve() if name else path
            assert file.exists(), f"{path.name}: {target}"
            if fragment and file in pages:
                assert unquote(fragment) in pages[file].ids, f"{path.name}: {target}"
            followed += 1
    assert followed > 1000
    assert [
        (path.name, page.pictures_without_words) for path, page in pages.items() if page.pictures_without_words
    ] == []


@pytest.mark.slow
@needs_sphinx
def test_references_hold_all_that_the_code_has(site: Path, pages: dict[Path, Page]) -> None:
    def page(name: str) -> Page:
        return pages[(site / f"{name}.html").resolve()]

    commands, keys, formats = page("commands"), page("recipe-keys"), page("file-formats")
    found = list(every_command(typer.main.get_command(app), "xec"))
    assert len(found) > 12
    for name, command in found:
        assert name.replace(" ", "-") in commands.ids, name
        for parameter in command.params:
            shown = parameter.param_type_name == "option" and not getattr(parameter, "hidden", False)
            for option in parameter.opts if shown else ():
                assert option in commands.text, (name, option)
    for key, _, _, meaning in describe():
        assert key in keys.text, key
        assert re.sub(r"\s+", " ", meaning) in keys.text, key
    for name, branch in BRANCHES.items():
        assert f"{name}" in formats.text
        assert branch.meaning in formats.text, name


def every_command(command: object, name: str) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        assert isinstance(command, typer.core.TyperCommand)
        yield name, command
        return
    for word, child in inner.items():
        yield from every_command(child, f"{name} {word}")


@pytest.mark.slow
@needs_sphinx
def test_the_tutorial_shows_what_its_commands_made(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[(site / "tutorial.html").resolve()]
    text = (site / "tutorial.html").read_text(encoding="utf-8")
    assert text.count("<img") >= 4
    for name in ("geometry", "network-diagrams"):
        assert (site / f"{name}.html").read_text(encoding="utf-8").count("<img") == 6, name
    assert "Best checkpoint: artifacts/first/checkpoint_best.pth" in page.text
    number = r"(-?[\d.]+)(?: ± [\d.]+)?(?: \(bias [^)]*\))?"
    row = re.search(" v mm " + " ".join([number] * 7), page.text)
    assert row, page.text
    _, network, _, _, conventional, nothing, centroid = map(float, row.groups())
    assert max(network, conventional) < centroid < nothing  # six epochs on 4000 events are enough for that
    assert "the difference may be chance" in page.text  # both were compared event by event
    # what commands print comes in pieces, and is whole on the page
    assert text.count('class="output') < 20
    assert "\ufffd" not in page.text


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
@needs_sphinx
def test_every_page_is_whole_in_a_browser(site: Path, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}/"
    try:
        with browser(tmp_path / "profile") as seen:
            seen.size(1280, 900)
            for path in sorted(site.glob("*.html")):
                seen.open_address(root + path.name)
                assert seen.said == [], path.name
                assert [url for url in seen.asked if not url.startswith((root, "data:"))] == [], path.name
                broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
                seen.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
                seen.until("[...document.images].every(i => i.complete)")
                assert seen.run(broken) == [], path.name
                # a table that is too wide scrolls by itself; the page does not
                assert seen.run("document.documentElement.scrollWidth <= innerWidth"), path.name
            seen.open_address(root + "search.html?q=fiducial")
            # results come one by one
            found = "[...document.querySelectorAll('#search-results li a')]"
            seen.until(f"{found}.some(a => a.textContent.includes('Conventions'))")
            assert seen.said == []
    finally:
        server.shutdown()
        server.server_close()


# ------------------------------------------------------------------------------------------ pages as plain texts


def test_the_migration_table_has_every_key_and_flag_of_the_replaced_system() -> None:
    text = (DOCS / "migrating.md").read_text(encoding="utf-8")
    for key, gone in oldconfig._GONE.items():
        assert f"| `{key}" in text, key
        assert f"`{gone.key}" in text, key
    flags = {"config", "tasks", "outer_fine_pool", *FLAGS} - {"name"}
    for flag in flags:
        assert f"`--{flag}`" in text, flag
    for variable in ("EPOCHS", "LR", "BATCH", "TASKS", "RESUME_FROM", "CHUNK_SIZE", "MLFLOW_TRACKING_URI"):
        assert f"`{variable}`" in text, variable


def test_commands_and_options_that_pages_name_exist() -> None:
    known = dict(every_command(typer.main.get_command(app), "xec"))
    checked = 0
    for path in DOCS.glob("*.md"):
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            for words in re.findall(r"\bxec ((?:[a-z]+ )*[^`|#;]*)", line):
                name = next((n for n in known if f"xec {words} ".startswith(f"{n} ")), None)
                if name is None or "submit" in name:
                    continue
                # a search takes what a training takes, too
                called = {name, "xec train"} if name.startswith("xec tune ") else {name}
                options = {
                    option
                    for command in called
                    for parameter in known[command].params
                    for option in (*parameter.opts, *parameter.secondary_opts)
                }
                if name.startswith("xec tune "):  # a search takes the options of the training that it repeats
                    options |= {option for parameter in known["xec train"].params for option in parameter.opts}
                for option in re.findall(r"(?<![\w-])(--[a-z][\w-]*)", words):
                    assert option in options, f"{path.name}: xec {words}"
                    checked += 1
    assert checked > 80


def test_every_command_is_on_a_page_that_somebody_wrote() -> None:
    """Beside the reference, which is written from the code."""
    written = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    names = {name for name, _ in every_command(typer.main.get_command(app), "xec")}
    assert len(names) > 20
    # a job of the batch system is the ordinary command with 'submit' before it
    assert [name for name in sorted(names) if not re.search(rf"`?\b{name}\b", written)] == []


def test_the_index_leads_to_every_page_once() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = [line for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL) for line in block.split()]
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert not pages & {"search", "genindex"}, "Sphinx writes pages of its own under these names"
    assert sorted(name for name in listed if name in pages) == sorted(pages)


def test_keys_that_pages_name_exist() -> None:
    known = {key for key, *_ in describe()}
    sections = {key.partition(".")[0] for key in known}
    checked = 0
    for path in DOCS.glob("*.md"):
        if path.name == "migrating.md":  # which names old keys too
            continue
        for key in re.findall(r"--set '?([a-z_]+\.[\w.]+)=", path.read_text(encoding="utf-8")):
            assert key in known or key.partition(".")[0] not in sections, f"{path.name}: {key}"
            checked += 1
    assert checked > 10
