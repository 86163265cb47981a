"""Views do not import heavy libraries and do not depend on where the data comes from."""

import pkgutil
import subprocess
import sys

from core import views

HEAVY_MODULES = {"duckdb", "plotly", "scipy", "streamlit", "tiktoken", "torch"}
DATA_SOURCES = {"core.lab", "core.run", "core.tracking"}


def test_views_do_not_import_heavy_libraries_or_data_sources() -> None:
    modules = [f"core.views.{module.name}" for module in pkgutil.iter_modules(views.__path__)]
    assert len(modules) > 1
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not (HEAVY_MODULES | DATA_SOURCES) & set(result.stdout.split())
