"""Pages open at their own URLs."""

from playwright.sync_api import expect


def test_launch_opens_at_its_own_url(open_tab):
    tab = open_tab("launch")
    expect(tab.get_by_role("heading", name="Launch", exact=True)).to_be_visible()
    expect(tab.get_by_text("Page not found")).to_have_count(0)


def test_results_opens_at_its_own_url(open_tab):
    tab = open_tab("results")
    expect(tab.get_by_role("heading", name="Results", exact=True)).to_be_visible()
    expect(tab.get_by_text("Page not found")).to_have_count(0)
