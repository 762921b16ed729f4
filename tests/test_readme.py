"""The README says what is so."""

import re

from jaxcnn import cli


def test_its_table_of_models_is_what_the_command_prints(root, capsys):
    assert cli.main(["models", "--markdown"]) == 0
    text = (root / "README.md").read_text()
    (table,) = re.findall(r"<!-- jaxcnn models --markdown -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert table == capsys.readouterr().out


def test_every_model_has_a_config(root):
    from jaxcnn import models

    assert {path.stem for path in (root / "configs").glob("*.py")} == set(models.list_models())
