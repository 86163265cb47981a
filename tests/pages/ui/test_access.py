"""Access control: open on loopback; otherwise, a password or login is required before anything is read."""

import time

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pages.ui import access, runtime
from tests.pages.conftest import APP

PAGES = ("launch", "data", "live", "results", "compare", "scoring")


@pytest.fixture
def bound(monkeypatch):
    """A function that sets the server address."""

    def bind(address):
        original_get_option = st.get_option
        monkeypatch.setattr(
            st,
            "get_option",
            lambda key: address if key == "server.address" else original_get_option(key),
        )

    return bind


def visit(runs_dir, page=None, secrets=None):
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.secrets = secrets or {}
    if page:
        app.switch_page(f"pages/{page}.py")
    app.run()
    assert not app.exception
    return app


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1", "127.0.0.53"])
def test_loopback_does_not_need_a_password(bound, runs_dir, address):
    bound(address)
    assert visit(runs_dir).title[0].value == "Results"


@pytest.mark.parametrize("address", ["0.0.0.0", "", None, "::", "192.168.1.7", "my-host", "0"])
@pytest.mark.parametrize("page", [None, *PAGES])
def test_network_access_without_a_password_is_refused(bound, runs_dir, address, page):
    bound(address)
    app = visit(runs_dir, page)
    [error] = app.error
    assert "Access refused" in error.value
    assert "DASHBOARD_PASSWORD" in error.value
    assert not app.title
    assert not app.sidebar.children
    assert runtime.HOLDER_MODULE not in __import__("sys").modules, "the Lab was opened"


def test_password_grants_access_and_wrong_ones_are_delayed(bound, runs_dir, monkeypatch):
    bound("0.0.0.0")
    monkeypatch.setenv(access.PASSWORD_VARIABLE, "sésame")
    monkeypatch.setattr(access, "WRONG_PASSWORD_PAUSE_S", 0.3)
    app = visit(runs_dir, "results")
    assert not app.title
    start = time.monotonic()
    app.text_input[0].input("sesame")
    app.button[0].click().run()
    assert time.monotonic() - start > 0.3
    assert app.error[0].value == "Wrong password."
    assert not app.title
    app.text_input[0].input("sésame")
    app.button[0].click().run()
    assert app.title[0].value == "Results", "the requested page"
    assert not app.text_input or app.text_input[0].label != "Password"
    assert "sésame" not in str(app.session_state)
    assert not visit(runs_dir).title, "access is granted per session"


def test_password_applies_on_loopback(runs_dir, monkeypatch):
    monkeypatch.setenv(access.PASSWORD_VARIABLE, "x")
    assert not visit(runs_dir).title


def test_login_admits_only_listed_users(bound, runs_dir, monkeypatch):
    bound("0.0.0.0")
    secrets = {"auth": {"users": ["me@example.org"]}}

    class User(dict):
        is_logged_in = True

    unknown_user = User()
    unknown_user.is_logged_in = False
    monkeypatch.setattr(st, "user", unknown_user)
    app = visit(runs_dir, secrets=secrets)
    assert app.button[0].label == "Log in"
    assert not app.title
    for user, is_admitted in (
        ({"email": "Me@Example.org", "email_verified": True}, True),
        ({"email": "me@example.org", "email_verified": False}, False),
        ({"email": "you@example.org"}, False),
        ({}, False),
    ):
        monkeypatch.setattr(st, "user", User(user))
        app = visit(runs_dir, secrets=secrets)
        assert bool(app.title) == is_admitted, user
        assert bool(app.error) != is_admitted
