"""A button that copies the address of the page, including its selection, filter and other state in the URL.

The address is read in the browser when the button is pressed, so nothing is passed to the component.
"""

import streamlit as st

HTML = """
<button type="button" title="Copy a link to this page with its current selection and filters">
  <svg viewBox="0 0 24 24" width="18" height="18" fill="currentColor" aria-hidden="true"><path d="M10.5 17H7A5 5 0 0 1 7 7h3.5v2H7a3 3 0 0 0 0 6h3.5zM8 13v-2h8v2zm5.5 4v-2H17a3 3 0 0 0 0-6h-3.5V7H17a5 5 0 0 1 0 10z"/></svg>
  <span aria-live="polite">Copy link</span>
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
  font: inherit;
  color: inherit;
  background: var(--st-background-color);
  border: 1px solid var(--st-border-color);
  border-radius: var(--st-button-radius);
  cursor: pointer;
}
button:hover { color: var(--st-primary-color); border-color: var(--st-primary-color); }
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

export default function ({ parentElement }) {
  const button = parentElement.querySelector('button');
  const label = button.querySelector('span');
  button.onclick = async () => {
    try {
      await copy(window.location.href);
      label.textContent = 'Copied';
    } catch {
      label.textContent = 'Copy the address bar';
    }
    setTimeout(() => { label.textContent = 'Copy link'; }, RESET_MS);
  };
}
"""
_component = st.components.v2.component("copy_link", html=HTML, css=CSS, js=JS)


def copy_link() -> None:
    """Draw the button."""
    _component(key="copy_link", width="content")
