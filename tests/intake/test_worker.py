"""The worker's errors; what it does with connections is in tests/system."""

import errno

import gevent
import pytest
from gevent.pool import Pool

from app.intake import worker


class BrokenListener:
    """A listener on which each accept fails, up to the thousandth, which ends the greenlet."""

    def __init__(self, error):
        self.error = error
        self.tries = 0

    def accept(self):
        self.tries += 1
        raise gevent.GreenletExit if self.tries == 1000 else self.error


def test_an_accept_that_keeps_failing_lets_others_run():
    listener = BrokenListener(OSError(errno.EPERM, "not permitted"))
    accepting = object.__new__(worker.Worker)
    accepting._connections = Pool(1)
    gevent.spawn(accepting._accept, listener)
    assert gevent.spawn(lambda: listener.tries).get() < 1000


@pytest.mark.parametrize("error", [gevent.GreenletExit(), SystemExit()])
def test_the_end_of_the_process_is_not_an_error_of_a_request(error):
    with pytest.raises(type(error)):
        worker.Worker.handle_error(None, None, None, None, error)
