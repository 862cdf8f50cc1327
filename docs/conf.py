"""Settings of the documentation site: plain Markdown pages, notebooks that the build executes, generated references."""

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
EXTENSIONS = str(HERE / "extensions")
sys.path.insert(0, EXTENSIONS)
# notebooks run in processes of their own: these find `xec` and the module `diagrams` through the environment
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [EXTENSIONS, os.environ.get("PYTHONPATH")]))
# a text in a page is as wide as its column, whatever the terminal of the build
os.environ["COLUMNS"] = "110"

from xecml import __version__  # noqa: E402  (after the path)

project = "XECML"
author = copyright = "The XECML developers"
version = release = __version__

extensions = ["myst_nb", "mathml", "generated_reference", "whole_streams"]
source_suffix = {".md": "myst-nb"}
exclude_patterns = ["_build", "extensions"]
nitpicky = True

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
# options begin with two hyphens, and what is quoted is there to be copied
smartquotes = False

# notebooks: executed when their cells or the package have changed, in a folder of their own; a cell that fails ends
# the build. XECML_NOTEBOOKS=off leaves them unexecuted, for a quick look at texts
nb_execution_mode = os.environ.get("XECML_NOTEBOOKS", "cache")
_sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((HERE.parent / "src").rglob("*.py"))))
_cache = os.environ.get("XECML_NOTEBOOK_CACHE", HERE.parent / "build" / "notebooks")
nb_execution_cache_path = str(Path(_cache) / _sources.hexdigest()[:16])
nb_execution_timeout = 1800
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_output_stderr = "remove"
# what a command prints comes in pieces, wherever its buffer was full
nb_merge_streams = True
nb_execution_show_tb = True

html_theme = "furo"
html_title = f"XECML {version}"
html_theme_options = {"navigation_with_keys": True}
html_favicon = "extensions/static/icon.svg"
html_static_path = ["extensions/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
