"""A page of a session, brought in step as its server would do it."""
import time


def look(page, seconds=300):
    """Until its runs rest and everything is drawn."""
    deadline = time.monotonic() + seconds
    page.look()
    while page.drawing or page.stale or page.drawn != page._wanted() or page.busy:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        page.look()
