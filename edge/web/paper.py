"""A page for paper: HTML in, PDF out, in a program of its own (`python -m edge.web.paper`: stdin to stdout).

WeasyPrint lays out the same template that the browser prints, and embeds the glyphs that are used, Chinese ones from the fonts of the
system. It is slow and large (two seconds, 140 MB), so the room never loads it. Nothing is fetched: a page may only bring its pictures
along as data. Callers: `dossier`; this module runs itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

PRINT_S = 120.0
MOST_BYTES = 64 << 20
STYLE = Path(__file__).parent / "static" / "paper.css"


class NotPrinted(Exception):
    """There is no PDF; `word` says why: too-long, failed."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


async def to_pdf(html: str, within_s: float = PRINT_S) -> bytes:
    """The page as a PDF. NotPrinted if the program fails or takes longer than that."""
    keep = {name: value for name in ("PATH", "PYTHONPATH", "PYTHONSAFEPATH", "HOME", "XDG_CACHE_HOME") if (value := os.environ.get(name))}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "edge.web.paper", stdin=PIPE, stdout=PIPE, env=keep,
                                                   start_new_session=True)
    try:
        async with asyncio.timeout(within_s):
            pdf, _ = await process.communicate(html.encode())
    except TimeoutError as error:
        raise NotPrinted("too-long") from error
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode != 0 or not pdf.startswith(b"%PDF-"):
        raise NotPrinted("failed")
    return pdf


def main() -> int:
    """stdin to stdout. The exit code: 0 done."""
    import resource

    from weasyprint import CSS, HTML, URLFetcher

    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")      # where memory runs out, this helper goes first
    os.nice(10)

    html = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(html) > MOST_BYTES:
        return 1
    page = HTML(string=html.decode(), url_fetcher=URLFetcher(allowed_protocols=("data",)))
    sys.stdout.buffer.write(page.write_pdf(stylesheets=[CSS(filename=str(STYLE))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
