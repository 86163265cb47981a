"""Access control with a password or an OpenID Connect login, which are optional only on a loopback address.

Runs before everything else, so that visitors without access cannot start or read anything.
"""

import hashlib
import hmac
import ipaddress
import os
import threading
import time
from collections.abc import Sequence

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError

PASSWORD_VARIABLE = "DASHBOARD_PASSWORD"
WRONG_PASSWORD_PAUSE_S = 1.0
"""Delay after a wrong password, to slow down guessing. Attempts from all sessions are checked one at a time."""
ADMITTED_KEY = "entered"
ACCESS_REFUSED = (
    "Access refused: this dashboard accepts connections from other machines (server.address = {address}) without a login. "
    f"Set {PASSWORD_VARIABLE}, configure a login ([auth] with a `users` list) in .streamlit/secrets.toml, or bind to 127.0.0.1."
)
_password_lock = threading.Lock()


def admit(paths: Sequence[str]) -> None:
    """Return if the visitor has access; otherwise show the login page and stop.

    Args:
        paths: URL paths of all pages. The login page is shown at each of these paths, so that links still work after logging in.
    """
    password, users = secret(PASSWORD_VARIABLE), _users()
    address = str(st.get_option("server.address") or "")
    if users:
        draw = None if _is_one_of(users) else _ask_to_log_in
    elif password:
        draw = None if st.session_state.get(ADMITTED_KEY) else lambda: _ask_for_password(password)
    else:
        draw = None if _is_loopback(address) else lambda: _refuse(address)
    if draw is not None:
        login_pages = [
            st.Page(draw, title="Log in", url_path=path, default=not path) for path in paths
        ]
        st.navigation(login_pages, position="hidden").run()
        st.stop()


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _refuse(address: str) -> None:
    st.error(ACCESS_REFUSED.format(address=address or "any"), icon=":material/lock:")


def _ask_for_password(password: str) -> None:
    """Ask for the password, once per session."""
    with st.form("login", width=360):
        typed = st.text_input("Password", type="password", max_chars=200)
        submitted = st.form_submit_button("Log in")
    if submitted:
        with _password_lock:
            if hmac.compare_digest(_digest(typed), _digest(password)):
                st.session_state[ADMITTED_KEY] = True
                st.rerun()
            time.sleep(WRONG_PASSWORD_PAUSE_S)
        st.error("Wrong password.")


def _is_one_of(users: list[str]) -> bool:
    """Whether the visitor is logged in as one of these users, with a verified email address."""
    email = str(st.user.get("email", "")).lower()
    return bool(
        st.user.is_logged_in and email in users and st.user.get("email_verified") is not False
    )


def _ask_to_log_in() -> None:
    if not st.user.is_logged_in:
        st.button("Log in", icon=":material/login:", on_click=st.login)
    else:
        st.error("This account does not have access to this dashboard.")
        st.button("Log out", on_click=st.logout)


def secret(name: str) -> str:
    """Return a secret from the environment or Streamlit's secrets, or an empty string if it is not set."""
    try:
        return os.environ.get(name) or str(st.secrets.get(name, ""))
    except StreamlitSecretNotFoundError:
        return ""


def _users() -> list[str]:
    """Return the email addresses that may log in, or an empty list if no login is configured."""
    try:
        return [str(user).lower() for user in st.secrets.get("auth", {}).get("users", [])]
    except StreamlitSecretNotFoundError:
        return []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
