"""Keep Streamlit from treating `pages/` as the folder of an old-style multipage app.

Streamlit does so until `app.py` has called `st.navigation` in this process. Until then, the sidebar lists every file,
and direct links show pages without navigation. Streamlit 1.67 has no public option to turn this off.
"""

from streamlit.runtime.pages_manager import PagesManager


def ignore() -> None:
    """Turn off page discovery in this process."""
    PagesManager.uses_pages_directory = False
