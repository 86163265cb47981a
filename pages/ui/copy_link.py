"""Buttons that copy the URL of the page or a text to the clipboard.

The URL is read in the browser when the button is pressed.
"""

import streamlit as st

HTML = """
<button type="button">
  <svg viewBox="0 0 24 24" width="16" height="16" fill="currentColor" aria-hidden="true"><path/></svg>
  <span aria-live="polite"></span>
</button>
"""
CSS = """
button {
  display: inline-flex;
  align-items: center;
  gap: 6px;
  min-height: 2.5rem;
  padding: 4px 12px;
  white-space: nowrap;
  font-family: inherit;
  font-size: 0.875rem;
  line-height: 1.6;
  color: inherit;
  background: var(--st-background-color);
  border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius);
  cursor: pointer;
}
button:disabled { opacity: 0.4; cursor: not-allowed; }
button:enabled:hover { color: var(--st-primary-color); border-color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
"""
JS = """
const RESET_MS = 2000;

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // the clipboard API needs HTTPS or localhost
    const field = document.createElement('textarea');
    field.value = text;
    field.style.position = 'fixed';
    document.body.append(field);
    field.select();
    const copied = document.execCommand('copy');
    field.remove();
    if (!copied) throw new Error('The browser refused to copy');
  }
}

export default function ({ data, parentElement }) {
  const button = parentElement.querySelector('button');
  const label = button.querySelector('span');
  button.querySelector('path').setAttribute('d', data.icon);
  button.title = data.help;
  button.disabled = data.disabled;
  label.textContent = data.label;
  button.onclick = async () => {
    try {
      await copy(data.text ?? window.location.href);
      label.textContent = 'Copied';
    } catch {
      label.textContent = "Couldn't copy";
    }
    setTimeout(() => { label.textContent = data.label; }, RESET_MS);
  };
}
"""
LINK_ICON = "M10.5 17H7A5 5 0 0 1 7 7h3.5v2H7a3 3 0 0 0 0 6h3.5zM8 13v-2h8v2zm5.5 4v-2H17a3 3 0 0 0 0-6h-3.5V7H17a5 5 0 0 1 0 10z"
TEXT_ICON = "M9 18q-.8 0-1.4-.6T7 16V4q0-.8.6-1.4T9 2h9q.8 0 1.4.6T20 4v12q0 .8-.6 1.4T18 18zm0-2h9V4H9zm-4 6q-.8 0-1.4-.6T3 20V6h2v14h11v2z"
_component = st.components.v2.component("copy_button", html=HTML, css=CSS, js=JS)


def copy_link() -> None:
    """Draw a button that copies the URL of the page."""
    help = "Copy a link to this page with its current selection and filters"
    data = {"label": "Copy link", "help": help, "icon": LINK_ICON, "text": None, "disabled": False}
    _component(key="copy_link", data=data, width="content")


def copy_text(label: str, text: str, key: str, help: str = "") -> None:
    """Draw a button that copies a text. It is disabled if the text is empty."""
    data = {"label": label, "help": help, "icon": TEXT_ICON, "text": text, "disabled": not text}
    _component(key=key, data=data, width="content")
