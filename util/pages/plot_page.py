"""One HTML file with plotly in it that opens offline.

Data stand in a block of JSON that cannot end its script element; the content policy lets only the
scripts written here run, and nothing be loaded or sent.
"""

import base64
import json
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from util.runs import write_atomically


def json_for_page(data: Any) -> str:
    """JSON without NaN that cannot end the script element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write_page(
    path: Path, title: str, body: str, style: str, script: str | None = None, data: str = "null"
) -> Path:
    """Write a page.

    Args:
        path: HTML to write.
        title: of the page.
        body: HTML before the scripts; trusted, so nothing of a user's may stand in it unescaped.
        style: CSS.
        script: runs after plotly.js; None for a page without scripts.
        data: for the script, from `json_for_page`: the text of the element `data`.
    """
    scripts = []
    if script is not None:
        from plotly.offline import get_plotlyjs  # half a second to import, used only here

        scripts = [get_plotlyjs(), script]
        body += f'\n<script type="application/json" id="data">{data}</script>'
    digests = (base64.b64encode(sha256(code.encode()).digest()).decode() for code in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = (  # plotly compiles its 2-D shaders with eval
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {allowed} 'unsafe-eval'"
    )
    code = "".join(f"<script>{code}</script>\n" for code in scripts)
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{body}\n{code}</body>\n</html>\n"
    )
    with write_atomically(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return Path(path)
