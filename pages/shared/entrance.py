"""Who may come in: anybody at this machine; from elsewhere only with the password or by an OpenID Connect login.

Stands before everything else: who is not let in starts nothing and reads nothing.
"""

import hashlib
import hmac
import ipaddress
import os
import threading
import time

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError

PASSWORD = "DASHBOARD_PASSWORD"
PAUSE = 1.0
"""Seconds that a wrong password costs, whoever typed it: nobody guesses faster."""
ENTERED = "entered"
CLOSED = (
    "This dashboard is not bound to this machine alone (server.address = {address}), and nobody has said who may come in. "
    f"Set {PASSWORD}, or configure a login ([auth] with a list `users`) in .streamlit/secrets.toml; or bind it to 127.0.0.1."
)
_guessing = threading.Lock()


def admit() -> None:
    """Let the visitor pass, or ask who it is and stop the page."""
    password, users = secret(PASSWORD), _users()
    address = str(st.get_option("server.address") or "")
    if users:
        _login(users)
    elif password:
        _ask(password)
    elif not _is_loopback(address):
        st.error(CLOSED.format(address=address or "any"), icon=":material/lock:")
        st.stop()


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _ask(password: str) -> None:
    """Stop until the password was typed in this session."""
    if st.session_state.get(ENTERED):
        return
    with st.form("entrance", width=360):
        typed = st.text_input("Password", type="password", max_chars=200)
        sent = st.form_submit_button("Enter")
    if sent:
        with _guessing:
            if hmac.compare_digest(_digest(typed), _digest(password)):
                st.session_state[ENTERED] = True
                st.rerun()
            time.sleep(PAUSE)
        st.error("This is not the password.")
    st.stop()


def _login(users: list[str]) -> None:
    """Stop until one of these has logged in with the provider."""
    if not st.user.is_logged_in:
        if st.button("Log in", icon=":material/login:"):
            st.login()
        st.stop()
    email = str(st.user.get("email", "")).lower()
    if email in users and st.user.get("email_verified") is not False:
        return
    st.error("This account is not among the users of this dashboard.")
    if st.button("Log out"):
        st.logout()
    st.stop()


def secret(name: str) -> str:
    """From the environment, else from Streamlit's secrets."""
    try:
        return os.environ.get(name) or str(st.secrets.get(name, ""))
    except StreamlitSecretNotFoundError:
        return ""


def _users() -> list[str]:
    """Who may log in, by e-mail address; nobody where no login is configured or it names nobody."""
    try:
        return [str(user).lower() for user in st.secrets.get("auth", {}).get("users", [])]
    except StreamlitSecretNotFoundError:
        return []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
