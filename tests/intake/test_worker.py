"""The worker's errors; what it does with connections is in tests/system."""

import gevent
import pytest

from app.intake import worker


@pytest.mark.parametrize("error", [gevent.GreenletExit(), SystemExit()])
def test_the_end_of_the_process_is_not_an_error_of_a_request(error):
    with pytest.raises(type(error)):
        worker.Worker.handle_error(None, None, None, None, error)
