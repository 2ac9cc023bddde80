"""The Content-Security-Policy of report pages: they show what they carry, and load nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib


def policy_meta(*scripts: str) -> str:
    """The <meta> of a page whose only scripts are these texts; its images are beside it or in it, its style is in it."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    rules = f"default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}; form-action \'none\'">'
