"""Waiting for what a page does: `wait_until(page, "document.title === 'x'")`.

playwright's `wait_for_function` evaluates text in the page's animation frames, which the pages' content security policy
refuses at any but its first try; `evaluate` may always.
"""

import time


def wait_until(page, expression, arg=None, seconds=30):
    """Until the expression, or the function of `arg`, is true in the page."""
    limit = time.monotonic() + seconds
    while not page.evaluate(expression, arg):
        assert time.monotonic() < limit, f"not within {seconds} s: {expression}"
        page.wait_for_timeout(20)
