"""The pages say what is so: links lead somewhere, commands exist, weights have the checksums beside them."""

import hashlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "SECURITY.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("[dew]*/*.md"))]
COMMAND = re.compile(r"python3? (?:-m )?([\w./]+)")
OURS = ("evaluation.", "evaluation/", "train", "preprocess", "inference")

by_page = pytest.mark.parametrize("page", PAGES)


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


@by_page
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(page))
    missing = [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).is_file()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/history.md"])
def test_commands_are_files_of_ours(page):
    for name in COMMAND.findall(text_of(page)):
        if name.startswith(OURS):
            path = ROOT / (name if name.endswith(".py") else name.replace(".", "/") + ".py")
            assert path.is_file() or (path.with_suffix("") / "__main__.py").is_file(), name
            assert not name.startswith("evaluation/"), f"{name} is run as a module"


@by_page
def test_pages_know_no_machine(page):
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp|mnt)/", text_of(page))


def test_weights_have_their_checksums():
    lines = text_of("weights/SHA256SUMS").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (ROOT / "weights").glob("*.safe*")}
    assert listed == found
    cards = text_of("weights/README.md")
    assert all(f"# {name}\n" in cards and digest in cards for name, digest in found.items())
