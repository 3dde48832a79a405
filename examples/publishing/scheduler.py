"""
Publishes every second with APScheduler, in one process beside the web server; so there is one clock, and not
one for each worker.

    DJANGO_SETTINGS_MODULE=chat.settings python examples/publishing/scheduler.py
"""

from datetime import datetime

from apscheduler.schedulers.blocking import BlockingScheduler

from uws4r.publisher import RedisPublisher

scheduler = BlockingScheduler()


@scheduler.scheduled_job("interval", seconds=1)
def tell_the_time() -> None:
    publisher = RedisPublisher(facility="clock", broadcast=True)
    publisher.publish_message(f"{datetime.now():%H:%M:%S}", expire=10)


if __name__ == "__main__":
    scheduler.start()
