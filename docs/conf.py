"""Configuration of the Sphinx documentation."""

from importlib.metadata import version as installed_version

project = "gausskl"
author = "The gausskl developers"
copyright = "2026, The gausskl developers"
version = release = installed_version("gausskl")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_ivar = True  # a property that is listed among the attributes is described once
autodoc_typehints = "none"  # the docstrings say the types
suppress_warnings = ["ref.footnote"]  # a reference need not be cited in the text of its docstring

html_theme = "furo"
html_title = "gausskl"
