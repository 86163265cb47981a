"""User errors are shown as messages; other exceptions are not caught."""

from streamlit.testing.v1 import AppTest


def page_with_errors():
    import streamlit as st

    from core.errors import UserError
    from pages.ui.errors import show_errors, toast_errors

    def fail(message):
        with toast_errors():
            raise UserError(message)

    def call_bug():
        raise ValueError("a bug")

    with show_errors():
        st.write("before")
        if st.toggle("fail"):
            raise UserError("no *room*")
        if st.toggle("bug"):
            call_bug()
        st.write("rest of the block")
    st.write("after")
    st.button("press", on_click=fail, args=("not *now*",))
    with show_errors(stop=True):
        if st.toggle("fail and stop"):
            raise UserError("nothing to draw")
    st.write("end")


def texts(page):
    return [element.value for element in page.markdown]


def test_user_error_replaces_the_rest_of_its_block():
    page = AppTest.from_function(page_with_errors).run()
    assert not page.error
    assert texts(page) == ["before", "rest of the block", "after", "end"]
    page.toggle[0].set_value(True).run()
    assert not page.exception
    assert [error.value for error in page.error] == [r"no \*room\*"]
    assert texts(page) == ["before", "after", "end"]


def test_stop_ends_the_page_after_the_error():
    page = AppTest.from_function(page_with_errors).run()
    page.toggle[-1].set_value(True).run()
    assert not page.exception
    assert [error.value for error in page.error] == ["nothing to draw"]
    assert texts(page) == ["before", "rest of the block", "after"]


def test_error_in_a_callback_is_a_toast():
    page = AppTest.from_function(page_with_errors).run()
    page.button[0].click().run()
    assert [toast.value for toast in page.toast] == [r"not \*now\*"]
    assert texts(page)[-1] == "end"


def test_other_exceptions_are_not_caught():
    page = AppTest.from_function(page_with_errors).run()
    page.toggle[1].set_value(True).run()
    assert len(page.exception) == 1
    assert not page.error
