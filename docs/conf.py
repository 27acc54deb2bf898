"""The documentation as a site: the pages that GitHub shows, and the reference from the code.

    sphinx-build -W -c docs . build/site

The repository is the source folder, so that a link leads to the same file here and there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "ringlet"
author = "the authors of ringlet"
root_doc = "docs/README"
include_patterns = [
    "*.md",
    "docs/**.md",
    "examples/*.md",
    "benchmarks/*.md",
    "launcher/lessons/*/lesson.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "src"]
source_suffix = {".md": "markdown"}

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "extensions.contents",
    "extensions.links",
    "extensions.repository",
    "extensions.commands",
    "extensions.console",
    "extensions.docstrings",
    "extensions.accessibility",
]
myst_heading_anchors = 4
smartquotes = False  # which would make a dash of the -- of an option
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures, many of them NumPy's

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries = False  # a thousand names in the contents of every page take half a minute
default_role = "code"

html_theme = "furo"
html_title = "ringlet"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_copyright = False
html_show_search_summary = False  # which a page that is read from a file cannot fetch
html_theme_options = {"top_of_page_buttons": []}
