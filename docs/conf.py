"""
The documentation as web pages: ``./build.sh docs``.

The Markdown files are the source, and are read in the tree as well. So nothing in them is Sphinx's own: the
navigation is made here, of whatever pages there are.
"""

import re
import shutil
from pathlib import Path

import uws4r  # its first lines; nothing of it is compiled

project = "uws4r"
version = release = uws4r.__version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "README"
exclude_patterns = ["images/*.md"]

nitpicky = True  # with sphinx-build -W: a link or an anchor that leads nowhere is an error
myst_heading_anchors = 4  # made as Git hosts make them, so that page.md#heading works in both
myst_enable_extensions: list[str] = []  # what a Git host would show as it stands

html_theme = "furo"
html_title = f"uws4r {version}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "tango"
pygments_dark_style = "monokai"

KINDS = {"tutorial": "Tutorials", "how-to": "How to", "reference": "Reference", "explanation": "Explanation"}


def navigation(app, docname, source):
    """
    Give the index the pages of each kind, for the sidebar; hidden on the page, which lists them in its own words.

    First those that it lists, in its order; then those that it does not.
    """
    if docname == root_doc:
        text = source[0]
        for directory, caption in KINDS.items():
            listed = re.findall(rf"\]\(({directory}/[\w-]+)\.md\)", text)
            there = sorted(page for page in app.env.found_docs if page.startswith(f"{directory}/"))
            pages = dict.fromkeys([*listed, *there])
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def index(app, error):
    """Web servers look for an index.html."""
    if error is None and app.builder.format == "html":
        built = Path(app.outdir)
        shutil.copyfile(built / f"{root_doc}.html", built / "index.html")


def setup(app):
    app.connect("source-read", navigation)
    app.connect("build-finished", index)
    return {"parallel_read_safe": True}
