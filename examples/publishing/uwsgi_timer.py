"""
Publishes every second from uWSGI itself, whatever the number of its workers:

    import = uwsgi_timer
"""

from datetime import datetime

from uwsgidecorators import timer

from uws4r.publisher import RedisPublisher


@timer(1)
def tell_the_time(signal_number: int) -> None:
    publisher = RedisPublisher(facility="clock", broadcast=True)
    publisher.publish_message(f"{datetime.now():%H:%M:%S}", expire=10)
