"""Render the HTML reports: of an evaluation, of training runs, of a data build. base.html.j2 is their common page."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def render_page(template: str, *, script: str = "", **values: Any) -> str:
    """Render `template`, a file of this folder, to HTML with every value escaped. Raises ConfigError without jinja2.

    script: the page's only JavaScript. The page's Content-Security-Policy allows nothing else, and no request.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(FOLDER)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template)
    return page.render(policy=Markup(allow_only(script)), script=Markup(script), **values)


def allow_only(script: str) -> str:
    """Write the Content-Security-Policy of a page with its own styles, its own images and one script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    rules = f"default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; script-src {allowed}"
    return f"{rules}; base-uri 'none'; form-action 'none'"
