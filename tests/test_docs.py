"""The documentation says what is so."""

import re
import shlex
import subprocess
import sys

import pytest
from processes import shell_lines

from jaxcnn import cli


@pytest.mark.parametrize(
    ("file", "command"), [("networks.md", "models"), ("training.md", "config")]
)
def test_generated_table_is_what_the_command_prints(file, command, root, capsys):
    assert cli.main([command, "--markdown"]) == 0
    text = (root / "docs" / file).read_text()
    marker = rf"<!-- jaxcnn {command} --markdown -->\n(.*?)<!-- end -->"
    (table,) = re.findall(marker, text, re.DOTALL)
    assert table == capsys.readouterr().out


def test_links_between_documents_lead_somewhere(root):
    for document in (root / "README.md", *(root / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", document.read_text()):
            assert not link or (document.parent / link).exists(), f"{document.name}: {link}"


def test_python_examples_name_what_exists(root):
    """Imports only: what they compute is tested elsewhere, and some of it downloads weights."""
    for document in (root / "README.md", *(root / "docs").glob("*.md")):
        # Not those of programs, which begin with a comment: they run where other packages are.
        pattern = r"(?<! -->\n)```python\n(.*?)```"
        for block in re.findall(pattern, document.read_text(), re.DOTALL):
            for line in block.splitlines():
                if line.startswith(("import ", "from ")):
                    exec(line, {})


def test_code_of_adding_a_network_runs(root, capsys):
    """All blocks of the page, one after another; it asserts what it claims."""
    text = (root / "docs" / "adding-a-network.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec("\n".join(blocks), {"__name__": "adding_a_network"})
    table, claimed = capsys.readouterr().out, re.findall(r"```\n(layer.*?)```", text, re.DOTALL)[0]
    lines = [line for line in claimed.splitlines() if line.startswith(("layer", "stem", "All"))]
    for line in lines:
        assert " ".join(line.split()[:4]) in " ".join(table.split()), line


@pytest.mark.slow
def test_commands_that_train_on_imagenet_lack_nothing_but_imagenet(root, tmp_path):
    """Each is run in an empty folder of datasets: its config and its other flags are accepted."""
    lines = {line for document in (root / "docs").glob("*.md") for line in shell_lines(document)}
    # Without a dataset, a bucket or another process.
    other = re.compile(r"configs/\S+:|--config.dataset|://|coordinator|\[")
    lines = {line for line in lines if line.startswith("python train.py")}
    lines = {line for line in lines if not other.search(line)}
    assert len(lines) > 5
    for line in sorted(lines):
        words = [sys.executable, *shlex.split(line, comments=True)[1:], f"--data_dir={tmp_path}"]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True)
        assert done.returncode == 2, line
        assert "dataset 'imagenet2012' is not prepared" in done.stderr, (line, done.stderr)
