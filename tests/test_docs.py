"""README.md and docs/ say what is true of the program."""

import re
import runpy

import pytest
from support import PROJECT

from flower_classifier.config.export_options import ExportConfig
from flower_classifier.config.predict_options import PredictConfig
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.doctor.findings import KINDS
from flower_classifier.report.report_files import REPORT_FILES

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
OTHERS_FLAGS = {"upgrade", "directory", "app"}  # of pip, http.server and flask
OTHERS_FLAGS |= {"nproc_per_node", "nnodes", "node_rank", "master_addr", "max_restarts"}  # of torchrun


def read(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def test_the_tests_that_the_promises_name_exist():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", read("docs/promises.md"))
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in read(f"tests/{file}"), (file, test)


def test_the_documentation_lists_the_report_with_the_same_words():
    """One table has a row for each file of the list, and no other row."""
    tables = [table for page in PAGES for table in re.findall(r"(?:^\|.*\n)+", page.read_text("utf-8"), re.MULTILINE)]
    (documented,) = (table for table in tables if f"\n| `{REPORT_FILES[0].name}` |" in table)
    assert documented.splitlines()[2:] == [f"| `{file.name}` | {file.shows} |" for file in REPORT_FILES]


def test_the_documentation_lists_the_kinds_of_findings_with_the_same_words():
    rows = [line for line in read("docs/doctor.md").splitlines() if line.startswith("| `") and "--doctor" not in line]
    assert rows == [f"| `{kind.name}` | {kind.shows} | {kind.score_means} |" for kind in KINDS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8")):
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings], target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_are_flags_of_the_commands(page):
    settings = [setting for config in (TrainConfig, PredictConfig, ExportConfig) for setting in config.options()]
    known = {name for setting in settings for name in (setting.name, *setting.aliases)}
    assert set(re.findall(r"(?<![\w-])--([a-z]\w+)", page.read_text("utf-8"))) <= known | OTHERS_FLAGS


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", read("README.md")))
    assert linked == {f"docs/{page.name}" for page in PAGES[1:]}


def test_the_page_for_contributors_shows_every_room():
    shown = re.findall(r"^      (\w+)/ ", read("docs/contributing.md"), re.MULTILINE)
    assert sorted(shown) == sorted(path.parent.name for path in (PROJECT / "flower_classifier").glob("*/__init__.py"))


def test_the_page_of_files_is_what_its_script_writes():
    page = runpy.run_path(str(PROJECT / "docs" / "files.py"))["page"]()
    assert read("docs/files.md") == page, "run `make docs`"
    rooms = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert rooms == re.findall(r"^      (\w+)/ ", read("docs/contributing.md"), re.MULTILINE)


def test_messages_in_the_troubleshooting_table_are_the_programs_own():
    section = read("README.md").partition("## Troubleshooting")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(quoted) > 5
    code = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "flower_classifier").rglob("*.py"))
    assert [message for message in quoted if message not in code] == ["operator torchvision::nms does not exist"]
