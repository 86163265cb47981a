"""Serve the dashboard: `python -m pages.ui.serve [STREAMLIT RUN OPTIONS]`.

Like `streamlit run app.py`, but starts queued runs before a page is opened.
"""

import contextlib
import sys
import threading
import time
from pathlib import Path

from streamlit import runtime as server
from streamlit.web import cli

from core.errors import UserError
from pages.ui import pages_directory

APP = Path(__file__).parents[2] / "app.py"
BROWSER_HEAD_START_S = 3.0
"""Delay before opening the Lab.

If a browser is already connecting, its session opens the Lab, and this thread would only slow it down.
"""


def open_lab_early() -> None:
    """Open the Lab once the server is running."""
    while not server.exists():
        time.sleep(0.1)
    time.sleep(BROWSER_HEAD_START_S)
    from pages.ui import runtime

    with contextlib.suppress(UserError):  # every page shows the error
        runtime.open_lab()


if __name__ == "__main__":
    pages_directory.ignore()
    threading.Thread(target=open_lab_early, name="open lab", daemon=True).start()
    sys.argv = ["streamlit", "run", str(APP), *sys.argv[1:]]
    cli.main(prog_name="streamlit")
