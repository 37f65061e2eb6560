"""HTML pages that open from a folder without a network, with or without interactive figures.

Data stand in a block of JSON that cannot end its script element. The content policy runs only the
scripts that carry the nonce of the page, and loads and sends nothing else. Pages with interactive
figures share one `plotly.min.js` in their folder; a page without it says so and shows the rest.
"""

import base64
import json
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from util.files import write_atomically

PLOTLY = "plotly.min.js"
WITHOUT_PLOTLY = (
    '<p id="without-plotly" role="alert" hidden>The interactive figures of this page need the file '
    f"{PLOTLY} in the same folder. Copy it there from the folder that this page comes from.</p>\n"
)


def beside(module: str, name: str) -> str:
    """Text of a file in the folder of a module, which passes its `__file__`."""
    return Path(module).with_name(name).read_text(encoding="utf-8")


def json_for_page(data: Any) -> str:
    """JSON without NaN that cannot end the script element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write_page(
    path: Path, title: str, body: str, style: str, script: str | None = None, data: str = "null"
) -> Path:
    """Write a page, and plotly.js beside it where the page has a script.

    Args:
        path: HTML to write.
        title: of the page.
        body: HTML before the scripts; trusted, so nothing of a user's may stand in it unescaped.
        style: CSS.
        script: runs after plotly.js; None for a page without scripts.
        data: for the script, from `json_for_page`: the text of the element `data`.
    """
    # nobody can write text into the page that has the nonce computed from it
    nonce = base64.b64encode(sha256(f"{body}{data}{script}".encode()).digest()).decode()
    if script is not None:
        write_plotly(Path(path).parent)
        style += beside(__file__, "plot_page.css")
        body = (
            f'{WITHOUT_PLOTLY}{body}\n<script type="application/json" id="data">{data}</script>\n'
            f'<script nonce="{nonce}" src="{PLOTLY}"></script>\n'
            f'<script nonce="{nonce}">\nif (window.Plotly) {{\n{script}\n}} else\n'
            '  document.getElementById("without-plotly").hidden = false;\n</script>'
        )
    policy = (  # plotly compiles its 2-D shaders with eval
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src 'nonce-{nonce}' 'unsafe-eval'"
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
    with write_atomically(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return Path(path)


def write_plotly(folder: Path) -> None:
    """Write plotly.js, 4.6 MB, into a folder that has none or another version of it."""
    from plotly.offline import get_plotlyjs  # half a second to import, used only here

    code, file = get_plotlyjs().encode(), folder / PLOTLY
    if not (file.is_file() and file.read_bytes() == code):
        with write_atomically(file) as temporary:
            temporary.write_bytes(code)
