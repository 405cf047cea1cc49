"""Chapters become notebooks: expanded, executed, byte-stable, and in step with the code they show."""
import json
import re
from pathlib import Path

import nbformat
import pytest

from labkit.course import build
from labkit.errors import LabError

HEAD = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
CODE = '''
import math

# halves
# a number
@staticmethod
def half(x):
    return x / 2


class Box:
    size: int = 3

    # how large
    def area(self):
        return self.size**2


LIMIT, FLOOR = 5, 1
ratio: float = 0.5
'''


def chapter(*cells: str) -> str:
    return HEAD + "\n".join(f"```{{code-cell}} python\n{c}\n```\n" if c[0] != "#" or c.startswith("# %") else f"{c}\n" for c in cells)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "course" / "chapters").mkdir(parents=True)
    (tmp_path / "pieces.py").write_text(CODE)
    return tmp_path


def write(clone: Path, *cells: str, name: str = "07_boxes") -> Path:
    path = clone / "course" / "chapters" / f"{name}.md"
    path.write_text(chapter(*cells))
    return path


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("half", "# halves", "    return x / 2"),
        ("Box.area", "    # how large", "        return self.size**2"),
        ("Box", "class Box:", "        return self.size**2"),
        ("FLOOR", "LIMIT, FLOOR = 5, 1", "LIMIT, FLOOR = 5, 1"),
        ("ratio", "ratio: float = 0.5", "ratio: float = 0.5"),
    ],
)
def test_definition_takes_comments_and_decorators(name, first, last):
    lines = build.definition(CODE, name).splitlines()
    assert (lines[0], lines[-1]) == (first, last)
    assert "@staticmethod" in lines or name != "half"


def test_expand_keeps_the_line_and_what_follows(clone):
    assert build.expand("# %load -s ratio,LIMIT pieces.py\nprint(1)") == (
        "# %load -s ratio,LIMIT pieces.py\nratio: float = 0.5\n\n\nLIMIT, FLOOR = 5, 1\nprint(1)"
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("# %load -s gone pieces.py", "defines no 'gone'"),
        ("# %load -s size pieces.py", "defines no 'size'"),
        ("# %load -s half lost.py", "names no file"),
        ("# %load -s half ../../etc/hosts", "names no file"),
    ],
)
def test_expand_refuses_what_is_not_there(clone, line, says):
    with pytest.raises(LabError, match=says):
        build.expand(line)


def test_build_is_byte_stable_and_clean(clone):
    source = write(
        clone,
        "# Boxes",
        "import os, ipywidgets\nprint(os.path.basename(os.getcwd()), os.environ['OMP_NUM_THREADS'])",
        "# %load -s ratio pieces.py\nratio",
        "ipywidgets.IntSlider()",
        "import plotly.graph_objects as go\ngo.Figure(layout={'template': 'none'}).show()",
        "1 + 1",
        "1 + 1",
    )
    path = build.build(source)
    first = path.read_bytes()
    assert build.build(source).read_bytes() == first and first.endswith(b"}\n")
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata == build.METADATA
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == [1, 2, 3, 4, 5, 6]
    assert code[0].outputs[0].text == "notebooks 1\n"
    assert code[1].outputs[0].data["text/plain"] == "0.5"
    assert set(code[2].outputs[0].data) == {"text/plain"}
    assert set(code[3].outputs[0].data) == {"application/vnd.plotly.v1+json"}
    assert all(c.metadata == {} for c in notebook.cells)
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("1 / 0", "does not run to its end"),
        ("import sys\nprint('psst', file=sys.stderr)", "cell 1 writes to stderr .'psst'"),
        ("object()", "memory address 0x"),
    ],
)
def test_build_refuses_a_chapter_that_is_not_clean(clone, cell, says):
    source = write(clone, cell)
    with pytest.raises(LabError, match=says):
        build.build(source)
    assert not build.target(source).exists()


def test_check_names_what_is_out_of_step(clone, capsys):
    source = write(clone, "# Boxes", "# %load -s ratio pieces.py", "print(ratio)")
    assert build.stale(source) == "07_boxes.ipynb has not been built"
    assert build.main([], check=False) == 0 and build.stale(source) is None and build.main([], check=True) == 0
    path = build.target(source)

    (clone / build.GLOSSARY).write_text("# Glossary")
    assert build.main([], check=True) == 1 and "glossary.md is out of step" in capsys.readouterr().err

    (clone / "pieces.py").write_text(CODE.replace("0.5", "0.25"))
    assert re.search("cell 2 .*differs", build.stale(source) or "")
    assert build.main(["7"], check=True) == 1 and "labkit build" in capsys.readouterr().err
    (clone / "pieces.py").write_text(CODE)

    write(clone, "# Boxes", "# %load -s ratio pieces.py", "print(ratio)", "2")
    assert build.stale(source) == "07_boxes.ipynb has 3 cells, 07_boxes.md has 4"
    write(clone, "# Boxes", "# %load -s ratio pieces.py", "print(ratio)")

    stored = json.loads(path.read_text())
    stored["cells"][2]["execution_count"] = None
    path.write_text(json.dumps(stored))
    assert build.stale(source) == "07_boxes.ipynb, cell 3 was never executed"

    path.rename(path.with_name("08_lost.ipynb"))
    assert build.orphans() == ["08_lost.ipynb has no source in course/chapters"]


def test_an_id_depends_only_on_its_cell(clone):
    before = [c.id for c in build.draft(write(clone, "1", "2", "2")).cells]
    after = [c.id for c in build.draft(write(clone, "0", "1", "2", "2")).cells]
    assert len(set(before)) == 3 and after[1:] == before


def test_numbers_choose_chapters(clone):
    write(clone, "1", name="03_three")
    write(clone, "1", name="11_eleven")
    assert [p.name for p in build.sources()] == ["03_three.md", "11_eleven.md"]
    assert [p.name for p in build.sources(["3"])] == ["03_three.md"]
    with pytest.raises(LabError, match=r"no chapter 12 .* 03, 11"):
        build.sources(["12"])


NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_notebooks_are_compared_for_the_most_part(path):
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    uncompared = [c for c in code if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert len(uncompared) <= 0.4 * len(code)
    assert not any("nbval-skip" in c.metadata.get("tags", []) for c in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_figures_carry_no_large_template(path):
    outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
    figures = [o.data["application/vnd.plotly.v1+json"] for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert all(len(json.dumps(f["layout"].get("template", {}))) < 2500 for f in figures)
