"""The documents say what the code does: every setting, every reason, every command of the README."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from dra_driver.config import Config as NodeConfig
from queues import reasons as queue_reasons
from scheduler.commit import outcome
from scheduler.config import Config
from scheduler.explain import why
from scheduler.model import reasons

ROOT = Path(__file__).parents[2]


def settings_table(config: type[BaseModel]) -> str:
    """The table of a configuration as its page should have it."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    for name, field in config.model_fields.items():
        default = field.default if not isinstance(field.default, bool) else str(field.default).lower()
        default = ", ".join(default) if isinstance(default, tuple) else default
        rows.append(f"| `{name}` | {'' if default in (None, '') else f'`{default}`'} | {field.description} |")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("page", "config"), [("configuration.md", Config), ("node-plugin.md", NodeConfig)], ids=["scheduler", "node plugin"]
)
def test_every_setting_stands_in_its_page_with_its_default_and_meaning(page: str, config: type[BaseModel]):
    assert settings_table(config) in (ROOT / "docs/admin" / page).read_text()


@pytest.mark.parametrize("module", [reasons, queue_reasons, outcome, why])
def test_every_reason_is_explained_to_the_user(module):
    page = (ROOT / "docs/user/why-pending.md").read_text()
    codes = {
        value.code
        for value in vars(module).values()
        if isinstance(value, type) and isinstance(getattr(value, "code", None), str)
    }
    assert codes
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_every_link_of_the_documents_leads_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_target_the_readme_names_is_in_the_makefile():
    targets = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert targets == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
