"""What a process costs, as the kernel and its own malloc count it."""

import os
import re
from pathlib import Path

from tests.support.site import Site
from tests.support.wire import Client


def pss(pid: int) -> int:
    """KiB of memory that a process would free by ending: its own, and its share of what it shares."""
    return int(re.findall(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0])


def cpu(pid: int) -> float:
    """Seconds that the threads of a process have computed."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def descriptors(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def idle_descriptors(site: Site) -> int:
    """How many descriptors the one worker of a site has when nobody is connected, its hub running."""
    with site.connect("/ws/first") as first:
        first.ping()
        # A request's descriptor is closed some time after its websocket is open; of the next request, surely before
        # its client sees the end.
        with Client(site.address) as page:
            page.request("/no-such-page", {"Upgrade": None, "Connection": "close"}, read=False)
            while not page.ended():
                pass
            return descriptors(worker_pid(site)) - 1


def worker_pid(site: Site) -> int:
    """The first worker, as it is now."""
    return int(re.findall(r"spawned uWSGI worker 1 \(pid: (\d+)", site.uwsgi.log)[-1])


def allocated(site: Site) -> int:
    """Bytes that the worker has from malloc, its hub's queues and buffers among them; it must have one worker."""
    return int(site.request("GET", "/allocated/").body)
