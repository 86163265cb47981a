"""Page URLs work, and pages do not send requests to other hosts."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

PAGES = ("", "data", "live", "results", "compare", "scoring")


def test_launch_opens_at_its_own_url(open_tab):
    tab = open_tab("launch")
    expect(tab.get_by_role("heading", name="Launch", exact=True)).to_be_visible()
    expect(tab.get_by_text("Page not found")).to_have_count(0)


@pytest.mark.parametrize("page", PAGES)
def test_pages_do_not_send_external_requests(browser_context, address, page):
    tab = browser_context.new_page()
    hosts = set()
    tab.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    tab.goto(f"{address}/{page}")
    expect(tab.get_by_role("heading").first).to_be_visible()
    icon = tab.locator("link[rel~=icon]").first.evaluate("link => link.href")
    tab.close()
    assert hosts <= {"127.0.0.1", None}  # None for data and blob URLs
    assert urlsplit(icon).hostname in ("127.0.0.1", None)
    assert "material" not in icon
